package kinesis

import (
	"context"
	"fmt"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
)

// credentials are what requests are signed with: static ones, read anew each
// time, or the AWS chain's.
type credentials struct {
	cfg Config

	mu    sync.Mutex
	chain aws.CredentialsProvider // nil until it is needed, and after drop
}

func (c *credentials) get(ctx context.Context) (aws.Credentials, error) {
	if c.cfg.AccessKey != "" {
		secret, err := c.cfg.SecretKey.Reveal()
		if err != nil {
			return aws.Credentials{}, fmt.Errorf("secret_key: %w", err)
		}
		return aws.Credentials{AccessKeyID: c.cfg.AccessKey, SecretAccessKey: secret}, nil
	}
	c.mu.Lock()
	chain := c.chain
	c.mu.Unlock()
	if chain == nil {
		ac, err := load(ctx, c.cfg)
		if err != nil {
			return aws.Credentials{}, err
		}
		if ac.Credentials == nil {
			return aws.Credentials{}, fmt.Errorf("set access_key and secret_key, or the AWS environment")
		}
		chain = ac.Credentials
		c.mu.Lock()
		c.chain = chain
		c.mu.Unlock()
	}
	return chain.Retrieve(ctx)
}

// drop makes the next request look for credentials anew: they were refused.
func (c *credentials) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.chain = nil
}

func load(ctx context.Context, c Config) (aws.Config, error) {
	var opts []func(*config.LoadOptions) error
	if c.Profile != "" {
		opts = append(opts, config.WithSharedConfigProfile(c.Profile))
	}
	if c.Region != "" {
		opts = append(opts, config.WithRegion(c.Region))
	}
	return config.LoadDefaultConfig(ctx, opts...)
}

// regionOf is what requests are signed for.
func regionOf(c Config) (string, error) {
	if c.Region != "" {
		return c.Region, nil
	}
	ac, err := load(context.Background(), c)
	switch {
	case err != nil && c.Endpoint == "":
		return "", fmt.Errorf("region: is missing, and the AWS environment cannot be read: %w", err)
	case err == nil && ac.Region != "":
		return ac.Region, nil
	case c.Endpoint != "":
		return "us-east-1", nil
	}
	return "", fmt.Errorf("region: is missing; write for example \"eu-central-1\", or give an endpoint")
}
