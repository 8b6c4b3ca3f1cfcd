package ext4_test

import (
	"bytes"
	"os"
	"testing"
	"time"

	"banger/internal/ext4"
)

// FuzzApplyLayer applies two layers of any bytes. Nothing panics, the limits
// hold, the same input has the same outcome, and every image that Finish calls
// whole is one that e2fsck has nothing to say about. fix repairs header
// checksums first, so that mutations get past them. Run it with
// -fuzzminimizetime 5x: coverage differs from run to run because of the goroutine
// that writes, and minimizing never ends.
func FuzzApplyLayer(f *testing.F) {
	needTool(f, "e2fsck")
	for _, c := range hostileCases(f) {
		if len(c.tar) < 64<<10 {
			f.Add(c.tar, []byte(nil), true)
		}
	}
	ents := corpus()
	small := func(e []ent) []byte {
		var keep []ent
		for _, x := range e {
			if len(x.data) < 4096 && len(x.Name) < 30 && len(keep) < 80 {
				keep = append(keep, x)
			}
		}
		return layer(f, keep...)
	}
	f.Add(small(ents[0]), small(ents[1]), false)
	f.Add(small(ents[0]), small(ents[2]), true)
	f.Add(layer(f, attrs(file("a", "x"), "user.big", string(make([]byte, 9000)))), layer(f, file(".wh.a", "")), true)
	f.Fuzz(func(t *testing.T, one, two []byte, fix bool) {
		if len(one) > 1<<20 || len(two) > 1<<20 {
			t.Skip("too long to be useful")
		}
		if fix {
			one, two = fixChecksums(one), fixChecksums(two)
		}
		o := ext4.Options{MaxBytes: 16 << 20, MaxEntries: 2000, Journal: ext4.NoJournal, UUID: [16]byte{1}, Time: time.Unix(1e9, 0)}
		path, st, err := build(t, o, one, two)
		if fi, serr := os.Stat(path); serr != nil || fi.Size() > o.MaxBytes {
			t.Fatalf("the file: %v, %v", fi, serr)
		}
		again, _, err2 := build(t, o, one, two)
		if (err == nil) != (err2 == nil) || err != nil && err.Error() != err2.Error() {
			t.Fatalf("two outcomes: %v and %v", err, err2)
		}
		if err != nil {
			return
		}
		a, _ := os.ReadFile(path)
		b, _ := os.ReadFile(again)
		if !bytes.Equal(a, b) {
			t.Fatal("two images of the same layers differ")
		}
		if st.Entries > o.MaxEntries {
			t.Fatalf("%d entries", st.Entries)
		}
		fsck(t, path)
	})
}

// fixChecksums makes the checksum of every block that looks like a header right.
func fixChecksums(b []byte) []byte {
	b = bytes.Clone(b)
	for i := 0; i+512 <= len(b); i += 512 {
		if h := b[i : i+512]; bytes.HasPrefix(h[257:], []byte("ustar")) {
			copy(h[148:], "        ")
			sum := 0
			for _, c := range h {
				sum += int(c)
			}
			copy(h[148:], []byte{'0' + byte(sum>>15&7), '0' + byte(sum>>12&7), '0' + byte(sum>>9&7), '0' + byte(sum>>6&7), '0' + byte(sum>>3&7), '0' + byte(sum&7), 0, ' '})
		}
	}
	return b
}
