package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"banger/internal/errs"
	"banger/internal/image"
)

var _ image.Store = (*Store)(nil)

// InsertImage adds a row. With replace an image of the same name loses its name;
// otherwise that is AlreadyExists.
func (s *Store) InsertImage(ctx context.Context, img image.Image, replace bool) error {
	record, err := json.Marshal(img)
	if err != nil {
		return err
	}
	err = s.tx(ctx, "image.insert", func(tx *sql.Tx) error {
		if replace {
			if err := unname(ctx, tx, img.Name); err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, "INSERT INTO images (id, name, record, created_at) VALUES (?, ?, ?, ?)",
			img.ID, img.Name, string(record), stamp(img.CreatedAt))
		return err
	})
	if isUnique(err) {
		return errs.New(errs.AlreadyExists, "image %q: there is one already", img.Name)
	}
	return err
}

func unname(ctx context.Context, tx *sql.Tx, name string) error {
	var text string
	err := tx.QueryRowContext(ctx, "SELECT record FROM images WHERE name = ?", name).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	var old image.Image
	if err := json.Unmarshal([]byte(text), &old); err != nil {
		return errs.With(errs.InvalidData, err)
	}
	old.Name = ""
	record, err := json.Marshal(old)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "UPDATE images SET name = NULL, record = ? WHERE id = ?", string(record), old.ID)
	return err
}

// DeleteImage removes a row; Precondition when a VM uses the image.
func (s *Store) DeleteImage(ctx context.Context, id string) error {
	err := s.tx(ctx, "image.delete", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM images WHERE id = ?", id)
		return err
	})
	if isForeignKey(err) {
		return errs.New(errs.Precondition, "a VM uses the image")
	}
	return err
}

// Image is the image of that id, or else of that name.
func (s *Store) Image(ctx context.Context, nameOrID string) (image.Image, error) {
	found, err := query[image.Image](ctx, s.db,
		"SELECT record FROM images WHERE name = ?1 OR id = ?1 ORDER BY id = ?1 DESC LIMIT 1", nameOrID)
	if err != nil {
		return image.Image{}, err
	}
	if len(found) == 0 {
		return image.Image{}, errs.New(errs.NotFound, "image %q: not found", nameOrID)
	}
	return found[0], nil
}

// Images is every image, unnamed ones too, oldest first.
func (s *Store) Images(ctx context.Context) ([]image.Image, error) {
	return query[image.Image](ctx, s.db, "SELECT record FROM images ORDER BY created_at, id")
}

// ImageUsers names the VMs made from the image.
func (s *Store) ImageUsers(ctx context.Context, id string) ([]string, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT name FROM vms WHERE image_id = ? ORDER BY name", id)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	users := []string{}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, classify(err)
		}
		users = append(users, name)
	}
	return users, classify(rows.Err())
}
