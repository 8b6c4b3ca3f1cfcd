package effect

import (
	"context"
	"database/sql"
	"errors"
	"os/exec"

	"golang.org/x/sys/unix"
)

// Start starts a process; the caller waits for it.
func (s *Seam) Start(ctx context.Context, name string, cmd *exec.Cmd) error {
	return s.Do(ctx, name, cmd.Start)
}

// SignalPidfd sends a signal to the process of a pidfd; one that is gone is no error.
func (s *Seam) SignalPidfd(ctx context.Context, name string, pidfd int, sig unix.Signal) error {
	return s.Do(ctx, name, func() error {
		if err := unix.PidfdSendSignal(pidfd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
		return nil
	})
}

// Tx runs f in one transaction and commits it: one effect, all or nothing.
func (s *Seam) Tx(ctx context.Context, name string, db *sql.DB, f func(*sql.Tx) error) error {
	return s.Do(ctx, name, func() error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		if err := f(tx); err != nil {
			return errors.Join(err, tx.Rollback())
		}
		return tx.Commit()
	})
}
