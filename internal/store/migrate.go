package store

import (
	"context"
	"database/sql"
	"fmt"

	"banger/internal/errs"
)

// migrations are the schema's history: appended to, never edited. The database's
// user_version is how many of them it has.
var migrations = []string{
	`CREATE TABLE images (
		id         TEXT PRIMARY KEY,
		name       TEXT UNIQUE, -- NULL once another image took the name
		record     TEXT NOT NULL,
		created_at TEXT NOT NULL
	) STRICT;
	CREATE TABLE vms (
		id         TEXT PRIMARY KEY,
		name       TEXT NOT NULL UNIQUE,
		image_id   TEXT NOT NULL REFERENCES images (id),
		state      TEXT NOT NULL,
		op         TEXT NOT NULL, -- the intent; '' when nothing is under way
		record     TEXT NOT NULL,
		created_at TEXT NOT NULL
	) STRICT;
	CREATE INDEX vms_by_image ON vms (image_id);`,
}

// migrate does each missing step in a transaction of its own, which reads the version
// again: two programs that open the file at once do each step once.
func (s *Store) migrate(ctx context.Context) error {
	var application, version, tables int
	err := s.db.QueryRowContext(ctx, `SELECT (SELECT application_id FROM pragma_application_id),
		(SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_master)`).
		Scan(&application, &version, &tables)
	if err != nil {
		return err
	}
	if application != applicationID && (application != 0 || version != 0 || tables != 0) {
		return errs.New(errs.Precondition, "the file is another program's database")
	}
	if version > len(migrations) {
		return errs.Hint(errs.New(errs.Precondition, "schema version %d is newer than this program's %d", version, len(migrations)),
			"use the newer banger that wrote it, or another BANGER_STATE_DIR")
	}
	// Not before the file is known to be ours. The mode is kept in the file.
	var mode string
	if err := s.db.QueryRowContext(ctx, "PRAGMA journal_mode = WAL").Scan(&mode); err != nil {
		return err
	}
	for version < len(migrations) {
		err := s.seam.Tx(ctx, "store.migrate", s.db, func(tx *sql.Tx) error {
			if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
				return err
			}
			if version >= len(migrations) {
				return nil
			}
			step := fmt.Sprintf("%s; PRAGMA application_id = %d; PRAGMA user_version = %d",
				migrations[version], applicationID, version+1)
			_, err := tx.ExecContext(ctx, step)
			return err
		})
		if err != nil {
			return fmt.Errorf("migrate to version %d: %w", version+1, err)
		}
		version++
	}
	return nil
}
