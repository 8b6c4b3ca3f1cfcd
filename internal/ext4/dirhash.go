package ext4

import "math/bits"

// dirHash is the half-MD4 hash of a name and its minor hash, as the kernel's
// ext4fs_dirhash computes them with signed characters (fs/ext4/hash.c).
func dirHash(seed [4]uint32, name string) (hash, minor uint32) {
	buf := [4]uint32{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476}
	if seed != ([4]uint32{}) {
		buf = seed
	}
	for len(name) > 0 {
		var in [8]uint32
		hashInput(&in, name)
		halfMD4(&buf, &in)
		name = name[min(32, len(name)):]
	}
	const eof = 0x7fffffff
	if hash = buf[1] &^ 1; hash == eof<<1 {
		hash = (eof - 1) << 1
	}
	return hash, buf[2]
}

// hashInput packs up to 32 bytes into words, padded with the length that is left.
func hashInput(in *[8]uint32, name string) {
	pad := uint32(len(name)) | uint32(len(name))<<8
	pad |= pad << 16
	for i := range in {
		val := pad
		for j := 4 * i; j < min(4*i+4, len(name)); j++ {
			val = uint32(int32(int8(name[j]))) + val<<8
		}
		in[i] = val
	}
}

// halfMD4 is MD4 cut down to three rounds of eight steps.
func halfMD4(buf *[4]uint32, in *[8]uint32) {
	rounds := [3]struct {
		f     func(x, y, z uint32) uint32
		k     uint32
		order [8]int
		shift [4]int
	}{
		{func(x, y, z uint32) uint32 { return z ^ x&(y^z) }, 0, [8]int{0, 1, 2, 3, 4, 5, 6, 7}, [4]int{3, 7, 11, 19}},
		{func(x, y, z uint32) uint32 { return x&y + (x^y)&z }, 0o13240474631, [8]int{1, 3, 5, 7, 0, 2, 4, 6}, [4]int{3, 5, 9, 13}},
		{func(x, y, z uint32) uint32 { return x ^ y ^ z }, 0o15666365641, [8]int{3, 7, 2, 6, 1, 5, 0, 4}, [4]int{3, 9, 11, 15}},
	}
	a, b, c, d := buf[0], buf[1], buf[2], buf[3]
	for i := range rounds {
		r := &rounds[i]
		for step, word := range r.order {
			a = bits.RotateLeft32(a+r.f(b, c, d)+in[word]+r.k, r.shift[step%4])
			a, b, c, d = d, a, b, c
		}
	}
	buf[0] += a
	buf[1] += b
	buf[2] += c
	buf[3] += d
}
