package cliio

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"unicode/utf8"
)

// WriteJSON writes v as the answer: one document, in which an empty list is [] and no
// character can act on a terminal.
func (s *IO) WriteJSON(v any) error {
	raw, err := marshal(v, "  ")
	if err != nil {
		return err
	}
	_, err = s.Out.Write(raw)
	return err
}

func marshal(v any, indent string) ([]byte, error) {
	copied := reflect.New(reflect.TypeOf(v)).Elem()
	copied.Set(reflect.ValueOf(v))
	fillLists(copied)
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	if err := e.Encode(copied.Interface()); err != nil {
		return nil, err
	}
	return escapeHarmful(b.Bytes()), nil
}

// fillLists makes every nil slice in v an empty one. Slices are copied before they are
// changed within, pointers are followed as they are.
func fillLists(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); f.CanSet() {
				fillLists(f)
			}
		}
	case reflect.Slice:
		if v.IsNil() && v.Type().Elem().Kind() != reflect.Uint8 {
			v.Set(reflect.MakeSlice(v.Type(), 0, 0))
			return
		}
		if k := v.Type().Elem().Kind(); k == reflect.Struct || k == reflect.Slice {
			fresh := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
			reflect.Copy(fresh, v)
			for i := range fresh.Len() {
				fillLists(fresh.Index(i))
			}
			v.Set(fresh)
		}
	case reflect.Pointer:
		if !v.IsNil() && v.Elem().Kind() == reflect.Struct {
			fresh := reflect.New(v.Type().Elem())
			fresh.Elem().Set(v.Elem())
			fillLists(fresh.Elem())
			v.Set(fresh)
		}
	}
}

// escapeHarmful escapes what encoding/json leaves raw. Such characters occur only within
// strings, so the document stays the same.
func escapeHarmful(doc []byte) []byte {
	var out []byte
	last := 0
	for i := 0; i < len(doc); {
		r, n := utf8.DecodeRune(doc[i:])
		if r >= 0x7f && r != utf8.RuneError && harmful(r) {
			out = append(append(out, doc[last:i]...), fmt.Sprintf(`\u%04x`, r)...)
			last = i + n
		}
		i += n
	}
	if last == 0 {
		return doc
	}
	return append(out, doc[last:]...)
}
