package host

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"testing"
)

// HangingKernel is a kernel that writes text to its console and halts for ever.
func HangingKernel(t testing.TB, text string) []byte {
	t.Helper()
	return machineCode(t, text, 0xfa, 0xf4, 0xeb, 0xfd) // cli; again: hlt; jmp again
}

// ResettingKernel is one that writes text and resets the machine.
func ResettingKernel(t testing.TB, text string) []byte {
	t.Helper()
	return machineCode(t, text, 0x0f, 0x01, 0x1d, 0, 0, 0, 0, 0xcc) // lidt of nothing; int3: a triple fault
}

// machineCode makes an ELF that boots as a kernel does: it writes text to the serial
// port and then executes end.
func machineCode(t testing.TB, text string, end ...byte) []byte {
	t.Helper()
	const base, page = 0x100000, 0x1000
	code := []byte{
		0xbe, 0, 0, 0, 0, // mov esi, text
		0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
		0xac,       // again: lodsb
		0x84, 0xc0, // test al, al
		0x74, 0x03, // jz done
		0xee,       // out dx, al
		0xeb, 0xf8, // jmp again
	}
	code = append(code, end...) // done:
	binary.LittleEndian.PutUint32(code[1:], uint32(base+len(code)))
	code = append(append(code, text...), 0)
	note := []byte{4, 0, 0, 0, 8, 0, 0, 0, 18, 0, 0, 0, 'X', 'e', 'n', 0} // the entry of a 32-bit kernel
	note = binary.LittleEndian.AppendUint64(note, base)

	var file bytes.Buffer
	header := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Entry: base, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 2,
	}
	noteAt := uint64(64 + 2*56)
	for _, part := range []any{
		header,
		elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: 7, Off: page, Vaddr: base, Paddr: base, Filesz: uint64(len(code)), Memsz: page, Align: page},
		elf.Prog64{Type: uint32(elf.PT_NOTE), Flags: 4, Off: noteAt, Vaddr: noteAt, Filesz: uint64(len(note)), Memsz: uint64(len(note)), Align: 4},
		note, make([]byte, page-int(noteAt)-len(note)), code,
	} {
		if err := binary.Write(&file, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return file.Bytes()
}
