// Package archtest holds no code, only tests that keep the module's shape: which
// package may import which, where the outside world may be changed, how long files
// and functions get.
package archtest
