package daemon

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"banger/api"
	"banger/internal/errs"
	"banger/internal/image"
	"banger/internal/kernelcat"
)

type body[T any] struct{ Body T }

func answer[T any](v T, err error) (*body[T], error) {
	if err != nil {
		return nil, failure(err)
	}
	return &body[T]{v}, nil
}

type none struct{}

// Named and Accepting are parts of requests; huma sees only exported ones.
type Named struct {
	Name string `path:"name" maxLength:"128" doc:"name or id"`
}

// Accepting is the part that streamed operations read.
type Accepting struct {
	Accept string `header:"Accept"`
}

// handler is the API: each operation decodes, calls one method of one service, encodes,
// and maps the error's class once.
func (d *daemon) handler() (http.Handler, error) {
	mux := http.NewServeMux()
	config := huma.DefaultConfig("banger", d.version)
	config.CreateHooks = nil // no $schema in answers
	config.DocsPath = ""
	config.AllowAdditionalPropertiesByDefault = true // newer clients send more fields
	config.FieldsOptionalByDefault = true
	huma.NewError = invalid
	a := humago.New(mux, config)
	a.UseMiddleware(func(ctx huma.Context, next func(huma.Context)) {
		ctx.SetHeader(api.VersionHeader, d.version)
		next(ctx)
	})
	d.systemRoutes(a)
	d.vmRoutes(a)
	d.imageRoutes(a)
	d.kernelRoutes(a)
	return mux, nil
}

func op(id, method, path, summary string) huma.Operation {
	return huma.Operation{OperationID: id, Method: method, Path: "/" + api.Version + path, Summary: summary}
}

func (d *daemon) systemRoutes(a huma.API) {
	huma.Register(a, op("system.status", http.MethodGet, "/system/status", "Describe the daemon"),
		func(ctx context.Context, _ *none) (*body[api.SystemStatus], error) { return answer(d.status(ctx)) })
	huma.Register(a, op("system.stop", http.MethodPost, "/system/stop", "End the daemon; VMs go on"),
		func(context.Context, *none) (*body[none], error) {
			d.stop(errStopping)
			return answer(none{}, nil)
		})
}

func (d *daemon) vmRoutes(a huma.API) {
	huma.Register(a, op("vm.list", http.MethodGet, "/vms", "List VMs"),
		func(ctx context.Context, _ *none) (*body[[]api.VM], error) { return answer(d.vms.List(ctx)) })
	huma.Register(a, streamed[api.VM](a.OpenAPI().Components.Schemas, op("vm.create", http.MethodPost, "/vms", "Make a VM")),
		func(_ context.Context, in *struct {
			Accepting
			Body api.VMSpec
		}) (*huma.StreamResponse, error) {
			return stream(in.Accept, func(ctx context.Context, tell report) (api.VM, error) {
				return d.vms.Create(ctx, in.Body, tell.image)
			}), nil
		})
	huma.Register(a, op("vm.show", http.MethodGet, "/vms/{name}", "Show a VM"),
		func(ctx context.Context, in *Named) (*body[api.VM], error) { return answer(d.vms.Show(ctx, in.Name)) })
	huma.Register(a, op("vm.delete", http.MethodDelete, "/vms/{name}", "Delete a VM and its disks"),
		func(ctx context.Context, in *struct {
			Named
			Force bool `query:"force" doc:"even if it runs"`
		}) (*body[none], error) {
			return answer(none{}, d.vms.Delete(ctx, in.Name, in.Force))
		})
	huma.Register(a, op("vm.stop", http.MethodPost, "/vms/{name}/stop", "Ask the guest to end"),
		func(ctx context.Context, in *Named) (*body[api.VM], error) { return answer(d.vms.Stop(ctx, in.Name)) })
	huma.Register(a, op("vm.kill", http.MethodPost, "/vms/{name}/kill", "End a VM at once"),
		func(ctx context.Context, in *Named) (*body[api.VM], error) { return answer(d.vms.Kill(ctx, in.Name)) })
	huma.Register(a, op("vm.exec", http.MethodPost, "/vms/{name}/exec", "Get a ticket to run a command"),
		func(ctx context.Context, in *struct {
			Named
			Body api.Exec
		}) (*body[api.Session], error) {
			return answer(d.vms.Exec(ctx, in.Name, in.Body))
		})
	huma.Register(a, op("vm.wait", http.MethodGet, "/vms/{name}/wait", "Wait until a VM is in a state"), d.waitVM)
	d.startRoutes(a)
}

type waitInput struct {
	Named
	For       string `query:"for" doc:"running, ready, stopped or deleted"`
	TimeoutMS int64  `query:"timeout_ms" minimum:"0"`
}

func (d *daemon) waitVM(ctx context.Context, in *waitInput) (*body[api.VM], error) {
	if in.TimeoutMS > 0 {
		limit := time.Duration(in.TimeoutMS) * time.Millisecond
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit,
			errs.New(errs.Timeout, "VM %q: not %s within %s", in.Name, in.For, limit))
		defer cancel()
	}
	return answer(d.vms.Wait(ctx, in.Name, in.For))
}

func (d *daemon) startRoutes(a huma.API) {
	registry := a.OpenAPI().Components.Schemas
	huma.Register(a, streamed[api.StartResult](registry, op("vm.start", http.MethodPost, "/vms/{name}/start", "Start a VM")),
		func(_ context.Context, in *struct {
			Named
			Accepting
		}) (*huma.StreamResponse, error) {
			return stream(in.Accept, func(ctx context.Context, tell report) (api.StartResult, error) {
				tell(api.Progress{Step: "starting " + in.Name})
				return d.vms.Start(ctx, in.Name)
			}), nil
		})
	huma.Register(a, streamed[api.RunResult](registry, op("vm.run", http.MethodPost, "/run", "Make, start and enter a VM")),
		func(_ context.Context, in *struct {
			Accepting
			Body api.RunRequest
		}) (*huma.StreamResponse, error) {
			return stream(in.Accept, func(ctx context.Context, tell report) (api.RunResult, error) {
				return d.vms.Run(ctx, in.Body, tell.image)
			}), nil
		})
}

func (d *daemon) imageRoutes(a huma.API) {
	registry := a.OpenAPI().Components.Schemas
	huma.Register(a, op("image.list", http.MethodGet, "/images", "List images"),
		func(ctx context.Context, _ *none) (*body[[]api.Image], error) {
			images, err := d.images.List(ctx)
			list := make([]api.Image, 0, len(images))
			for _, img := range images {
				wired, wireErr := d.wireImage(ctx, img)
				err = errors.Join(err, wireErr)
				list = append(list, wired)
			}
			return answer(list, err)
		})
	huma.Register(a, streamed[api.Image](registry, op("image.pull", http.MethodPost, "/images", "Pull an image")),
		func(_ context.Context, in *struct {
			Accepting
			Body api.ImagePull
		}) (*huma.StreamResponse, error) {
			return stream(in.Accept, func(ctx context.Context, tell report) (api.Image, error) {
				img, err := d.images.Pull(ctx, in.Body.Ref, in.Body.Name, in.Body.Force, tell.image)
				if err != nil {
					return api.Image{}, err
				}
				return d.wireImage(ctx, img)
			}), nil
		})
	huma.Register(a, op("image.show", http.MethodGet, "/images/{name}", "Show an image"),
		func(ctx context.Context, in *Named) (*body[api.Image], error) {
			img, err := d.images.Find(ctx, in.Name)
			if err != nil {
				return nil, failure(err)
			}
			return answer(d.wireImage(ctx, img))
		})
	huma.Register(a, op("image.delete", http.MethodDelete, "/images/{name}", "Delete an image"),
		func(ctx context.Context, in *Named) (*body[none], error) {
			return answer(none{}, d.images.Delete(ctx, in.Name))
		})
}

func (d *daemon) kernelRoutes(a huma.API) {
	huma.Register(a, op("kernel.list", http.MethodGet, "/kernels", "List kernels"),
		func(ctx context.Context, _ *none) (*body[[]api.Kernel], error) {
			kernels, err := d.listKernels(ctx)
			list := make([]api.Kernel, 0, len(kernels))
			for _, k := range kernels {
				list = append(list, wireKernel(k))
			}
			return answer(list, err)
		})
	huma.Register(a, op("kernel.show", http.MethodGet, "/kernels/{name}", "Show a kernel"),
		func(ctx context.Context, in *Named) (*body[api.Kernel], error) {
			k, err := d.kernels.Resolve(ctx, in.Name)
			return answer(wireKernel(k), err)
		})
}

func (d *daemon) listKernels(ctx context.Context) ([]kernelcat.Kernel, error) {
	// The embedded kernel is one of them, whether or not a VM needed it yet.
	if _, err := d.kernels.Resolve(ctx, ""); err != nil && !errs.Is(err, errs.Unavailable) {
		return nil, err
	}
	kernels, warnings, err := d.kernels.List(ctx)
	for _, w := range warnings {
		d.log.Warn("kernel directory", "error", w)
	}
	return kernels, err
}

func (d *daemon) status(ctx context.Context) (api.SystemStatus, error) {
	running, err := d.vms.Running(ctx)
	if err != nil {
		return api.SystemStatus{}, err
	}
	kvm, err := d.kvm.get(ctx)
	return api.SystemStatus{
		PID: pid(), Version: d.version, StateDir: d.dirs.State, Socket: d.dirs.Socket(), StartedAt: d.started,
		VMsRunning: running, KVM: api.KVM{Usable: kvm.Usable, Reason: kvm.Reason},
	}, err
}

func (d *daemon) wireImage(ctx context.Context, img image.Image) (api.Image, error) {
	users, err := d.images.Users(ctx, img.ID)
	layers := make([]api.Layer, 0, len(img.Layers))
	for _, l := range img.Layers {
		layers = append(layers, api.Layer{Digest: l.Digest, MediaType: l.MediaType, SizeBytes: l.Size})
	}
	return api.Image{
		Name: img.Name, ID: img.ID, Source: img.Source, Digest: img.Digest, Managed: true, Arch: img.Arch,
		RootfsPath: img.RootfsPath, Kernel: img.Kernel, SizeBytes: img.SizeBytes, DiskBytes: img.DiskBytes(),
		Config: api.ImageConfig{
			Env: orEmpty(img.Config.Env), User: img.Config.User, Workdir: img.Config.WorkDir,
			Entrypoint: orEmpty(img.Config.Entrypoint), Cmd: orEmpty(img.Config.Cmd),
			ExposedPorts: orEmpty(img.Config.ExposedPorts),
		},
		Layers: layers, CreatedAt: img.CreatedAt, UsedBy: users,
	}, err
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}
