// Package soak holds the tests that take minutes: many runs, storms, deadlines. They are
// built with the tag soak, and `make soak` runs them.
package soak
