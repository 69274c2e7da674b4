// Package devices holds the list of kinds of source and what they share: the
// config tables, and what a payload may be decoded as. A source takes data in
// some protocol and puts it to an inlet; it acknowledges its sender when, and
// only when, the inlet says that the data is on disk.
package devices

import (
	"forebay/devices/broker"
	"forebay/devices/mqtt"
	"forebay/devices/serial"
	"forebay/devices/video"
	"forebay/gateway/conf"
)

// Config is the part of a config file that describes sources.
type Config struct {
	Broker  broker.Config   `toml:"mqtt"`
	MQTT    []mqtt.Config   `toml:"mqtt_client"`
	Serial  []serial.Config `toml:"serial"`
	Video   video.Config    `toml:"video"`
	Cameras []video.Camera  `toml:"camera"`
}

// EachID visits the ids of the configured sources with their table and place.
func (c *Config) EachID(visit func(table string, index int, id conf.Name)) {
	for i := range c.MQTT {
		visit("mqtt_client", i, c.MQTT[i].ID)
	}
	for i := range c.Serial {
		visit("serial", i, c.Serial[i].ID)
	}
	for i := range c.Cameras {
		visit("camera", i, c.Cameras[i].ID)
	}
}
