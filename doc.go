// Package forebay is the root of the module: an edge gateway that keeps every
// record of a factory floor on disk before its sender hears "yes", and hands
// the records on, in order, when there is a link.
//
// The programs are in gateway (the daemon and its command line), ui (the
// operators' console) and firmware-sim (a simulated factory, the witness of
// the end-to-end tests). The root holds no code of its own; layers_test.go
// holds the table of which package may import which.
package forebay
