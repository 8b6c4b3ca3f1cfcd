package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "banger"

// goPackage is what `go list` says of one package.
type goPackage struct {
	ImportPath string
	Dir        string
	Export     string // file with the compiled package's types
	GoFiles    []string
	Imports    []string
	Module     *struct{ Path string }
}

// name is the path inside the module, "" for a package of another module.
func (p goPackage) name() string {
	name, _ := inModule(p.ImportPath)
	return name
}

func inModule(importPath string) (string, bool) {
	return strings.CutPrefix(importPath, module+"/")
}

// list runs `go list -json` in the module's root. A package that does not compile
// is listed too: the others are still worth judging. It shares its build flags with
// scripts/build, so that with -export it finds the packages already compiled.
func list(t *testing.T, args ...string) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-e", "-trimpath", "-buildvcs=false", "-json=ImportPath,Dir,Export,GoFiles,Imports,Module"}, args...)...)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var packages []goPackage
	decoder := json.NewDecoder(bytes.NewReader(out))
	for {
		var p goPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

// sourceFile is one parsed file that is not a test.
type sourceFile struct {
	name string // path inside the module
	file *ast.File
}

func parse(t *testing.T, fset *token.FileSet, p goPackage) []sourceFile {
	t.Helper()
	var files []sourceFile
	for _, base := range p.GoFiles {
		path := filepath.Join(p.Dir, base)
		file, err := parser.ParseFile(fset, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, sourceFile{p.name() + "/" + base, file})
	}
	return files
}
