package main
type proveCmd struct{}
func (proveCmd) Run() error { return nil }
