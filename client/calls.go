package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"banger/api"
)

// A VM may be named by its name or its id everywhere. A progress function, where one is
// taken, is called on the caller's goroutine, and may be nil.

func vmPath(name, verb string) string { return "/vms/" + url.PathEscape(name) + verb }

func force(yes bool) url.Values {
	if !yes {
		return nil
	}
	return url.Values{"force": {"true"}}
}

// Run makes a VM, starts it and prepares a session in it, which the caller attaches to
// within 30 seconds. When the session ends the daemon stops the VM, unless the request
// says that it keeps running.
func (c *Client) Run(ctx context.Context, r api.RunRequest, progress func(api.Progress)) (api.RunResult, error) {
	return do[api.RunResult](ctx, c, call{what: "run", method: http.MethodPost, path: "/run", body: r, progress: progress})
}

// VMs lists all VMs.
func (c *Client) VMs(ctx context.Context) ([]api.VM, error) {
	return do[[]api.VM](ctx, c, call{what: "list VMs", method: http.MethodGet, path: "/vms"})
}

// VM shows one VM.
func (c *Client) VM(ctx context.Context, name string) (api.VM, error) {
	return do[api.VM](ctx, c, call{what: "show VM " + strconv.Quote(name), method: http.MethodGet, path: vmPath(name, "")})
}

// CreateVM makes a VM, stopped.
func (c *Client) CreateVM(ctx context.Context, spec api.VMSpec) (api.VM, error) {
	return do[api.VM](ctx, c, call{what: "create VM " + strconv.Quote(spec.Name), method: http.MethodPost, path: "/vms", body: spec})
}

// StartVM starts a VM and returns when it is ready.
func (c *Client) StartVM(ctx context.Context, name string, progress func(api.Progress)) (api.StartResult, error) {
	return do[api.StartResult](ctx, c, call{
		what: "start VM " + strconv.Quote(name), method: http.MethodPost, path: vmPath(name, "/start"), progress: progress,
	})
}

// StopVM shuts a VM down and returns when it has stopped.
func (c *Client) StopVM(ctx context.Context, name string) (api.VM, error) {
	return do[api.VM](ctx, c, call{what: "stop VM " + strconv.Quote(name), method: http.MethodPost, path: vmPath(name, "/stop")})
}

// KillVM ends a VM without asking its guest.
func (c *Client) KillVM(ctx context.Context, name string) (api.VM, error) {
	return do[api.VM](ctx, c, call{what: "kill VM " + strconv.Quote(name), method: http.MethodPost, path: vmPath(name, "/kill")})
}

// DeleteVM removes a VM and its disks; overProtection also one that runs.
func (c *Client) DeleteVM(ctx context.Context, name string, overProtection bool) error {
	_, err := do[struct{}](ctx, c, call{
		what: "delete VM " + strconv.Quote(name), method: http.MethodDelete, path: vmPath(name, ""), query: force(overProtection),
	})
	return err
}

// Exec prepares a session in a running VM; see Attach.
func (c *Client) Exec(ctx context.Context, name string, x api.Exec) (api.Session, error) {
	return do[api.Session](ctx, c, call{
		what: "exec in VM " + strconv.Quote(name), method: http.MethodPost, path: vmPath(name, "/exec"), body: x,
	})
}

// What WaitVM waits for.
const (
	ForRunning = "running"
	ForReady   = "ready"
	ForStopped = "stopped"
	ForDeleted = "deleted"
)

// WaitVM waits until a VM is what is asked for; a timeout of 0 is none, and one that
// passes is a Timeout error. After ForDeleted the answer may be empty.
func (c *Client) WaitVM(ctx context.Context, name, what string, timeout time.Duration) (api.VM, error) {
	query := url.Values{"for": {what}}
	if timeout > 0 {
		query.Set("timeout_ms", strconv.FormatInt(max(1, timeout.Milliseconds()), 10))
	}
	return do[api.VM](ctx, c, call{
		what: "wait for VM " + strconv.Quote(name), method: http.MethodGet, path: vmPath(name, "/wait"), query: query,
	})
}

// Images lists all images.
func (c *Client) Images(ctx context.Context) ([]api.Image, error) {
	return do[[]api.Image](ctx, c, call{what: "list images", method: http.MethodGet, path: "/images"})
}

// Image shows one image.
func (c *Client) Image(ctx context.Context, name string) (api.Image, error) {
	return do[api.Image](ctx, c, call{
		what: "show image " + strconv.Quote(name), method: http.MethodGet, path: "/images/" + url.PathEscape(name),
	})
}

// PullImage makes an image from a reference. A path in it must be absolute: the daemon
// has another working directory.
func (c *Client) PullImage(ctx context.Context, p api.ImagePull, progress func(api.Progress)) (api.Image, error) {
	return do[api.Image](ctx, c, call{
		what: "pull image " + strconv.Quote(p.Ref), method: http.MethodPost, path: "/images", body: p, progress: progress,
	})
}

// DeleteImage removes an image; overProtection also one that is the default.
func (c *Client) DeleteImage(ctx context.Context, name string, overProtection bool) error {
	_, err := do[struct{}](ctx, c, call{
		what: "delete image " + strconv.Quote(name), method: http.MethodDelete,
		path: "/images/" + url.PathEscape(name), query: force(overProtection),
	})
	return err
}

// Kernels lists all kernels.
func (c *Client) Kernels(ctx context.Context) ([]api.Kernel, error) {
	return do[[]api.Kernel](ctx, c, call{what: "list kernels", method: http.MethodGet, path: "/kernels"})
}

// Kernel shows one kernel.
func (c *Client) Kernel(ctx context.Context, name string) (api.Kernel, error) {
	return do[api.Kernel](ctx, c, call{
		what: "show kernel " + strconv.Quote(name), method: http.MethodGet, path: "/kernels/" + url.PathEscape(name),
	})
}

// Status describes the daemon.
func (c *Client) Status(ctx context.Context) (api.SystemStatus, error) {
	return do[api.SystemStatus](ctx, c, call{what: "system status", method: http.MethodGet, path: "/system/status"})
}
