package main

// tsc reads the time stamp counter. In a guest under QEMU's "-icount shift=0" it is the
// number of instructions executed since the machine's start, whatever the load.
func tsc() uint64
