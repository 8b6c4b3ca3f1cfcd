// The ocilayout command packs one root filesystem tar as an OCI image layout
// with a single zstd layer, and reads the result back before it says so.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "ocilayout:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("ocilayout", flag.ContinueOnError)
	tarPath := flags.String("tar", "", "root filesystem, an uncompressed tar `file`")
	out := flags.String("out", "", "`directory` to make the layout in; must not exist")
	name := flags.String("name", "", "`tag` of the image in the layout's index")
	created := flags.Int64("created", 0, "creation time in `seconds` since 1970")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *tarPath == "" || *out == "" || *name == "" {
		return errors.New("-tar, -out and -name are required")
	}
	if err := write(*tarPath, *out, *name, time.Unix(*created, 0).UTC()); err != nil {
		return err
	}
	return verify(*out)
}
