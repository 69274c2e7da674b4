package spool

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// A KeyError says why encrypted streams cannot be opened, and what to do.
type KeyError struct {
	Path   string // of the master key; empty where none is configured
	Reason string
	Hint   string
}

func (e *KeyError) Error() string {
	what := "the master key"
	if e.Path != "" {
		what += " " + e.Path
	}
	return fmt.Sprintf("%s %s (%s)", what, e.Reason, e.Hint)
}

// keyPath is where the master key lies; empty where none is configured.
func (c Config) keyPath() (string, error) {
	if c.KeyCredential == "" {
		return c.KeyFile, nil
	}
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return "", &KeyError{
			Path: c.KeyCredential, Reason: "is a credential, and the system has handed none over",
			Hint: "start the gateway as a systemd service with LoadCredential= or LoadCredentialEncrypted=" + c.KeyCredential + ":FILE, or give key_file",
		}
	}
	return filepath.Join(dir, c.KeyCredential), nil
}

// loadMasterKey reads a master key: 32 bytes, or 64 hexadecimal digits and a
// newline. Unless the system guards it itself (a credential), a file that
// others may read is refused, and so is one in the spool's directory: whoever
// takes the directory away, or its backup, must not have the key with it.
func loadMasterKey(path, spoolDir string, credential bool) (*masterKey, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &KeyError{Path: path, Reason: "cannot be opened: " + err.Error(), Hint: "bring the file back from where it is kept; without it nothing of the encrypted streams can be read"}
	}
	defer f.Close()
	if !credential {
		if err := checkGuarded(f, path, spoolDir); err != nil {
			return nil, err
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, 1024))
	if err != nil {
		return nil, &KeyError{Path: path, Reason: "cannot be read: " + err.Error(), Hint: "check the file and its disk"}
	}
	if len(b) != keyBytes {
		text := string(bytes.TrimSpace(b))
		if b, err = hex.DecodeString(text); err != nil || len(b) != keyBytes {
			return nil, &KeyError{Path: path, Reason: "does not hold a key of 32 bytes", Hint: "a key is 32 bytes as they are, or 64 hexadecimal digits; make one with: openssl rand -hex 32"}
		}
	}
	m, err := newMasterKey(b)
	clear(b)
	return m, err
}

func checkGuarded(f *os.File, path, spoolDir string) error {
	fi, err := f.Stat()
	if err != nil {
		return &KeyError{Path: path, Reason: "cannot be read: " + err.Error(), Hint: "check the file and its disk"}
	}
	if !fi.Mode().IsRegular() {
		return &KeyError{Path: path, Reason: "is not a plain file", Hint: "give the path of a file"}
	}
	if runtime.GOOS != "windows" && fi.Mode().Perm()&0o077 != 0 {
		return &KeyError{Path: path, Reason: fmt.Sprintf("may be read by others (mode %04o)", fi.Mode().Perm()), Hint: "chmod 600 " + path}
	}
	at, err := real(path)
	if err != nil {
		return err
	}
	dir, err := real(spoolDir)
	if err != nil {
		return err
	}
	if rel, err := filepath.Rel(dir, at); err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
		return &KeyError{Path: path, Reason: "lies in the spool's own directory", Hint: "keep it elsewhere: who takes the directory, or a backup of it, must not have the key with it"}
	}
	return nil
}

// real is a path without links.
func real(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(abs)
}
