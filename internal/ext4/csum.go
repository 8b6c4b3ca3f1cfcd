package ext4

import "hash/crc32"

// crc is the kernel's crc32c: no inversion before or after, so that sums chain.
func crc(seed uint32, p []byte) uint32 {
	return ^crc32.Update(^seed, crc32.MakeTable(crc32.Castagnoli), p)
}

// crc32le chains a 32-bit number.
func crc32le(seed, v uint32) uint32 {
	var b [4]byte
	le.PutUint32(b[:], v)
	return crc(seed, b[:])
}

// inodeSeed starts the checksums of everything that belongs to one inode: the
// inode itself, its directory blocks and its extent blocks. Generation is always 0.
func (w *Writer) inodeSeed(ino uint32) uint32 {
	return crc32le(crc32le(w.csum, ino), 0)
}
