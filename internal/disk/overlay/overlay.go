// Package overlay makes the disks of a VM whose root is an overlay: the image, shared
// and read-only, under a small private upper; and the work disk at /root. Both are
// empty sparse file systems, so a new VM costs milliseconds and hardly any space.
package overlay

import (
	"context"
	"errors"
	"fmt"
	"os"

	"banger/internal/effect"
	"banger/internal/ext4"
	"banger/internal/paths"
)

// Driver makes overlay disks.
type Driver struct{ Seam *effect.Seam }

// Make makes upper and work disk in the VM's run directory, each of size bytes at most.
// Durable disks are on stable storage when Make returns; others only have to outlive
// this boot of the host. Making them again over old ones drops their content. After a
// failure parts may remain, which go with the run directory.
func (d Driver) Make(ctx context.Context, vm paths.VM, size int64, durable bool) error {
	for _, disk := range []struct{ path, label string }{{vm.Upper(), "upper"}, {vm.Work(), "work"}} {
		if err := d.makeOne(ctx, disk.path, disk.label, size, durable); err != nil {
			return fmt.Errorf("make disk %s: %w", disk.path, err)
		}
	}
	return nil
}

func (d Driver) makeOne(ctx context.Context, path, label string, size int64, durable bool) error {
	f, err := d.Seam.OpenFile(ctx, "disk.create", path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = d.Seam.Do(ctx, "disk.format", func() error {
		if err := ext4.Empty(f, ext4.Options{Size: size, Label: label}); err != nil {
			return err
		}
		if durable {
			return f.Sync()
		}
		return nil
	})
	return errors.Join(err, f.Close())
}
