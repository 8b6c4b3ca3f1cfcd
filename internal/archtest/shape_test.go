package archtest

import (
	"go/ast"
	"go/token"
	"path"
	"slices"
	"strings"
	"testing"
)

const (
	maxFileLines     = 600
	maxFunctionLines = 80
)

func TestEveryPackageHasOneComment(t *testing.T) {
	fset := token.NewFileSet()
	for _, p := range list(t, "./...") {
		var documented []string
		for _, source := range parse(t, fset, p) {
			if source.file.Doc == nil {
				continue
			}
			documented = append(documented, source.name)
			name := source.file.Name.Name
			want := []string{"Package " + name + " "}
			if name == "main" {
				command := path.Base(p.ImportPath)
				want = []string{"Command " + command + " ", "The " + command + " command "}
			}
			text := strings.ReplaceAll(source.file.Doc.Text(), "\n", " ")
			if !slices.ContainsFunc(want, func(start string) bool { return strings.HasPrefix(text, start) }) {
				t.Errorf("%s: the package comment does not begin with %q", source.name, want[0])
			}
		}
		if len(p.GoFiles) > 0 && len(documented) != 1 {
			t.Errorf("package %s has %d package comments instead of one: %v", p.name(), len(documented), documented)
		}
	}
}

func TestNamesSayWhatIsInside(t *testing.T) {
	empty := []string{"util", "utils", "common", "helper", "helpers", "misc"}
	for _, p := range list(t, "./...") {
		if slices.Contains(empty, path.Base(p.ImportPath)) {
			t.Errorf("package %s: the name does not say what is inside", p.name())
		}
	}
}

func TestFilesAndFunctionsStayShort(t *testing.T) {
	fset := token.NewFileSet()
	for _, p := range list(t, "./...") {
		for _, source := range parse(t, fset, p) {
			if ast.IsGenerated(source.file) {
				continue
			}
			if lines := fset.File(source.file.Pos()).LineCount(); lines > maxFileLines {
				t.Errorf("%s has %d lines, more than %d", source.name, lines, maxFileLines)
			}
			for _, declaration := range source.file.Decls {
				function, ok := declaration.(*ast.FuncDecl)
				if !ok {
					continue
				}
				if lines := fset.Position(function.End()).Line - fset.Position(function.Pos()).Line + 1; lines > maxFunctionLines {
					t.Errorf("%s: %s has %d lines, more than %d", source.name, function.Name.Name, lines, maxFunctionLines)
				}
			}
		}
	}
}

// An init function runs in every program that links the package, whether it is
// wanted there or not.
func TestNothingHappensAtImport(t *testing.T) {
	fset := token.NewFileSet()
	for _, p := range list(t, "./...") {
		for _, source := range parse(t, fset, p) {
			for _, declaration := range source.file.Decls {
				if function, ok := declaration.(*ast.FuncDecl); ok && function.Recv == nil && function.Name.Name == "init" {
					t.Errorf("%s has an init function", source.name)
				}
			}
		}
	}
}
