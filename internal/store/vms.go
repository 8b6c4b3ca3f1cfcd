package store

import (
	"context"
	"database/sql"
	"encoding/json"

	"banger/internal/errs"
	"banger/internal/vm"
)

var _ vm.Store = (*Store)(nil)

// InsertVM adds a row; AlreadyExists when the name is taken.
func (s *Store) InsertVM(ctx context.Context, r vm.Record) error {
	record, err := json.Marshal(r)
	if err != nil {
		return err
	}
	err = s.tx(ctx, "vm.insert", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx,
			"INSERT INTO vms (id, name, image_id, state, op, record, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
			r.ID, r.Name, r.ImageID, r.State, r.Op, string(record), stamp(r.CreatedAt))
		return err
	})
	switch {
	case isUnique(err):
		return errs.New(errs.AlreadyExists, "VM %q: the name is taken", r.Name)
	case isForeignKey(err):
		return errs.New(errs.NotFound, "image %q was deleted meanwhile", r.Image)
	}
	return err
}

// UpdateVM replaces a row; NotFound when there is none.
func (s *Store) UpdateVM(ctx context.Context, r vm.Record) error {
	record, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return s.tx(ctx, "vm.update", func(tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, "UPDATE vms SET name = ?, image_id = ?, state = ?, op = ?, record = ? WHERE id = ?",
			r.Name, r.ImageID, r.State, r.Op, string(record), r.ID)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 1 {
			return err
		}
		return errs.New(errs.NotFound, "VM %q: not found", r.Name)
	})
}

// DeleteVM removes a row; one that is gone is no error.
func (s *Store) DeleteVM(ctx context.Context, id string) error {
	return s.tx(ctx, "vm.delete", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM vms WHERE id = ?", id)
		return err
	})
}

// VM is the VM of that id, or else of that name: ids are what services look up, and no
// name may lead them astray.
func (s *Store) VM(ctx context.Context, nameOrID string) (vm.Record, error) {
	records, err := s.vms(ctx, "WHERE name = ?1 OR id = ?1 ORDER BY id = ?1 DESC LIMIT 1", nameOrID)
	if err != nil {
		return vm.Record{}, err
	}
	if len(records) == 0 {
		return vm.Record{}, errs.New(errs.NotFound, "VM %q: not found", nameOrID)
	}
	return records[0], nil
}

// VMs is every VM, oldest first.
func (s *Store) VMs(ctx context.Context) ([]vm.Record, error) {
	return s.vms(ctx, "ORDER BY created_at, id")
}

func (s *Store) vms(ctx context.Context, rest string, args ...any) ([]vm.Record, error) {
	return query[vm.Record](ctx, s.db, "SELECT record FROM vms "+rest, args...)
}

// query reads the JSON records that sql selects.
func query[T any](ctx context.Context, db *sql.DB, sql string, args ...any) (all []T, err error) {
	rows, err := db.QueryContext(ctx, sql, args...)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		var v T
		if err := rows.Scan(&text); err != nil {
			return nil, classify(err)
		}
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			return nil, errs.With(errs.InvalidData, err)
		}
		all = append(all, v)
	}
	return all, classify(rows.Err())
}
