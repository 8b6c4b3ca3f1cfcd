package app

import (
	"path/filepath"
	"strings"
)

// AbsoluteRef makes the path in an image reference absolute, because the daemon has
// another working directory. Other references stay as they are.
func AbsoluteRef(ref string) (string, error) {
	for _, scheme := range []string{"oci:", "oci-archive:", "docker-archive:"} {
		path, ok := strings.CutPrefix(ref, scheme)
		if !ok || path == "" {
			continue
		}
		// A colon ends the path only behind its last slash: oci:dir:tag, oci:/a:b/c.
		tag := ""
		if i := strings.LastIndexByte(path, ':'); i > strings.LastIndexByte(path, '/') && scheme == "oci:" {
			path, tag = path[:i], path[i:]
		}
		abs, err := filepath.Abs(path)
		return scheme + abs + tag, err
	}
	return ref, nil
}
