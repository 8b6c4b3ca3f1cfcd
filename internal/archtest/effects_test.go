package archtest

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// outside is what changes the world outside the process, by package. A method is
// written "Type.Method". Everything else, reading above all, is free.
var outside = map[string]*regexp.Regexp{
	"os": regexp.MustCompile(`^((Root\.)?(Mkdir|MkdirAll|Create|OpenFile|WriteFile|Rename|Remove|RemoveAll|Symlink|Link|Chmod|Chown|Lchown|Chtimes)` +
		`|MkdirTemp|CreateTemp|Truncate|CopyFS|StartProcess|Process\.(Kill|Signal))$`),
	"os/exec":                     regexp.MustCompile(`^Cmd\.(Start|Run|Output|CombinedOutput)$`),
	"net":                         regexp.MustCompile(`^(Listen.*|ListenConfig\.Listen.*)$`),
	"syscall":                     systemCalls,
	"golang.org/x/sys/unix":       systemCalls,
	module + "/internal/unixsock": regexp.MustCompile(`^Listen$`),
	// What is done in a transaction counts where the transaction was begun.
	"database/sql": regexp.MustCompile(`^(DB|Conn)\.(Exec|ExecContext|Begin|BeginTx)$`),
}

var systemCalls = regexp.MustCompile(`^(Mount.*|Unmount|Umount.*|MoveMount|PivotRoot|Chroot|Unshare|Setns|Clone.*|Exec|ForkExec|StartProcess` +
	`|Kill|Tgkill|PidfdSendSignal|Reboot|Sethostname|Rename.*|Unlink.*|Rmdir|Mkdir.*|Mknod.*|Symlink.*|Link|Linkat|Open|Openat|Openat2|Creat` +
	`|F?[Cc]hmod.*|[FL]?[Cc]hown.*|Truncate|Fallocate|Flock|Fcntl.*|Ioctl.*|Bind|Raw[Ss]yscall.*|Syscall.*|Setxattr|[FL]setxattr)$`)

// harmless are matches of the above that only ask.
var harmless = regexp.MustCompile(`^(IoctlGet.*|FcntlInt|Syscall(Conn|Error)|Openat2?Flags|Clone_.*)$`)

// free are the packages that may do all that, and why.
var free = map[string]string{
	"internal/effect":    "is the seam",
	"internal/agent":     "runs in the guest, whose world it is there to change",
	"internal/leakcheck": "takes inventories, for tests",
	"internal/kvmprobe":  "makes only a guest of its own, in a child of its own",
	"internal/archtest":  "is not part of the product",
	"images":             "is not part of the product",
	"test":               "is not part of the product",
	"cmd/banger-agent":   "runs in the guest",
}

// known are single functions outside the seam that stay there, "package.function"
// with the reason.
var known = map[string]string{
	"internal/unixsock.Listen":  "binds a socket as one effect, which its callers give a name",
	"internal/ext4.punchFreed":  "gives back space inside the file it was handed to write",
	"internal/vmm/monitor.undo": "ends the process of a start that the seam has reported as failed",
	"internal/vmm/fake.disk":    "is the fake VMM's own process, opening its disks as a real one does",
	"internal/vmm/fake.planEnd": "is the fake VMM's own process, dying as a real one does",
}

func TestTheOutsideIsChangedThroughTheSeam(t *testing.T) {
	packages := list(t, "-export", "-deps", "./...")
	exports := map[string]string{}
	for _, p := range packages {
		exports[p.ImportPath] = p.Export
	}
	fset := token.NewFileSet()
	imports := importer.ForCompiler(fset, "gc", func(importPath string) (io.ReadCloser, error) {
		return os.Open(exports[importPath])
	})
	used := map[string]bool{}
	for _, p := range packages {
		if p.Module == nil || p.Module.Path != module || isFree(p.name()) {
			continue
		}
		var files []*ast.File
		for _, source := range parse(t, fset, p) {
			files = append(files, source.file)
		}
		info := &types.Info{Uses: map[*ast.Ident]types.Object{}, Types: map[ast.Expr]types.TypeAndValue{}}
		if _, err := (&types.Config{Importer: imports}).Check(p.ImportPath, fset, files, info); err != nil {
			t.Errorf("package %s does not compile: %v", p.name(), err)
			continue
		}
		for _, file := range files {
			for _, found := range changes(file, info) {
				function := p.name() + "." + found.function
				if _, ok := known[function]; ok {
					used[function] = true
					continue
				}
				at := fset.Position(found.pos)
				t.Errorf("%s/%s:%d: %s changes the outside world: do it through effect.Seam, or add %q to the table with a reason",
					p.name(), filepath.Base(at.Filename), at.Line, found.what, function)
			}
		}
	}
	for function := range known {
		if !used[function] {
			t.Errorf("table entry %q is not needed any more", function)
		}
	}
}

func isFree(name string) bool {
	for element := range strings.SplitSeq(name, "/") {
		if strings.HasSuffix(element, "test") {
			return true // a conformance suite and what it brings
		}
	}
	for prefix := range free {
		if name == prefix || strings.HasPrefix(name, prefix+"/") {
			return true
		}
	}
	return false
}

// change is a use of something in the table.
type change struct {
	what     string
	function string // the top-level function it is in
	pos      token.Pos
}

// changes finds what a file changes outside the process, except inside a call to a
// method of effect.Seam: what is handed to the seam is what the seam is for.
func changes(file *ast.File, info *types.Info) []change {
	var found []change
	for _, declaration := range file.Decls {
		function := "var"
		if f, ok := declaration.(*ast.FuncDecl); ok {
			function = f.Name.Name
		}
		visit := func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if isSeamMethod(n.Fun, info) || onlyReads(n, info) {
					return false
				}
			case *ast.Ident:
				if what, ok := changing(info.Uses[n]); ok {
					found = append(found, change{what, function, n.Pos()})
				}
			}
			return true
		}
		ast.Inspect(declaration, visit)
	}
	return found
}

func isSeamMethod(fun ast.Expr, info *types.Info) bool {
	selector, ok := fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, name := described(info.Uses[selector.Sel])
	return pkg == module+"/internal/effect" && strings.HasPrefix(name, "Seam.")
}

// onlyReads is true of an open call whose flags are a constant that neither creates
// nor writes.
func onlyReads(call *ast.CallExpr, info *types.Info) bool {
	selector, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	flag := -1
	switch pkg, name := described(info.Uses[selector.Sel]); {
	case pkg == "os" && (name == "OpenFile" || name == "Root.OpenFile"), name == "Open" && pkg != "os":
		flag = 1
	case name == "Openat":
		flag = 2
	}
	if flag < 0 || flag >= len(call.Args) {
		return false
	}
	value := info.Types[call.Args[flag]].Value
	if value == nil {
		return false
	}
	bits, exact := constant.Int64Val(value)
	const changesSomething = int64(os.O_WRONLY | os.O_RDWR | os.O_CREATE | os.O_TRUNC)
	return exact && bits&changesSomething == 0
}

// changing names an object that is in the table.
func changing(object types.Object) (string, bool) {
	function, ok := object.(*types.Func)
	if !ok {
		return "", false
	}
	pkg, name := described(function)
	pattern := outside[pkg]
	if pattern == nil || !pattern.MatchString(name) || harmless.MatchString(name) {
		return "", false
	}
	return fmt.Sprintf("%s.%s", path.Base(pkg), name), true
}

// described is an object's package path and its name, with the type if it is a method.
func described(object types.Object) (pkg, name string) {
	if object == nil || object.Pkg() == nil {
		return "", ""
	}
	name = object.Name()
	if function, ok := object.(*types.Func); ok {
		if receiver := function.Signature().Recv(); receiver != nil {
			kind := receiver.Type()
			if pointer, ok := kind.(*types.Pointer); ok {
				kind = pointer.Elem()
			}
			if named, ok := kind.(*types.Named); ok {
				name = named.Obj().Name() + "." + name
			}
		}
	}
	return object.Pkg().Path(), name
}
