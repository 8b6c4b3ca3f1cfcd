// Package store keeps records in SQLite: write-ahead log, synchronous=FULL, one writer.
// What a method acknowledged is on disk. sql.ErrNoRows ends here, as NotFound.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"banger/internal/effect"
	"banger/internal/errs"
)

// applicationID marks the database file as banger's ("bang").
const applicationID = 0x62616e67

// Store is an open database.
type Store struct {
	seam *effect.Seam
	db   *sql.DB
	path string
}

// Open opens or makes the database at path and brings its schema up to date. A schema
// newer than this program, and a file that is not banger's, are refused as
// Precondition, and left as they are. The caller holds the state directory's lock.
func Open(ctx context.Context, seam *effect.Seam, path string) (*Store, error) {
	dsn := (&url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: url.Values{
		"_txlock": {"immediate"},
		"_pragma": {"synchronous(FULL)", "foreign_keys(1)", "busy_timeout(5000)"},
	}.Encode()}).String()
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	s := &Store{seam: seam, db: db, path: path}
	if err := s.migrate(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w", path, classify(err)), db.Close())
	}
	return s, nil
}

// Close closes the database.
func (s *Store) Close() error { return s.db.Close() }

func (s *Store) tx(ctx context.Context, name string, f func(*sql.Tx) error) error {
	err := classify(s.seam.Tx(ctx, "store."+name, s.db, f))
	if errs.Is(err, errs.Exhausted) {
		err = errs.Hint(fmt.Errorf("write %s: %w", s.path, err), "make room on its disk; deleting VMs and images works on a full one")
	}
	return err
}

// classify gives the class of what SQLite reports.
func classify(err error) error {
	var e *sqlite.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sql.ErrNoRows):
		return errs.With(errs.NotFound, err)
	case !errors.As(err, &e):
		return err
	}
	if e.Code() == sqlite3.SQLITE_IOERR_SHMSIZE { // the log's index finds no room
		return errs.New(errs.Exhausted, "no space left on its disk: %w", err)
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_FULL:
		return errs.With(errs.Exhausted, err)
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return errs.With(errs.InvalidData, err)
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH:
		return errs.With(errs.Permission, err)
	}
	return err
}

// stamp is t so that the order of text is the order of time.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000000Z") }

// isUnique tells whether err is a violated UNIQUE constraint.
func isUnique(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE
}

// isForeignKey tells whether err is a violated reference.
func isForeignKey(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code() == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY
}
