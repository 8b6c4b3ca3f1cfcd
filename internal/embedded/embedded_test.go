package embedded

import (
	"bytes"
	"io/fs"
	"strings"
	"testing"

	"banger/internal/errs"
)

func TestWhatIsMissingNamesTheTarget(t *testing.T) {
	err := missing("guest kernel", "make kernel build", fs.ErrNotExist)
	if !errs.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "make kernel build") {
		t.Errorf("got %v", err)
	}
}

func TestKernelIsABundleOrMissing(t *testing.T) {
	file, err := Kernel()
	if err != nil {
		if !errs.Is(err, errs.Unavailable) {
			t.Fatal(err)
		}
		t.Skip("built without a kernel: ", err)
	}
	defer file.Close()
	var magic [4]byte
	if _, err := file.Read(magic[:]); err != nil {
		t.Fatal(err)
	}
	if want := [4]byte{0x28, 0xb5, 0x2f, 0xfd}; magic != want {
		t.Errorf("begins with % x, not with zstd's magic number", magic)
	}
}

func TestAgentIsAnELFOrMissing(t *testing.T) {
	agent, err := Agent()
	if err != nil {
		if !errs.Is(err, errs.Unavailable) {
			t.Fatal(err)
		}
		t.Skip("built without an agent: ", err)
	}
	if !bytes.HasPrefix(agent, []byte("\x7fELF")) {
		t.Errorf("%d bytes that do not begin with ELF's magic number", len(agent))
	}
}
