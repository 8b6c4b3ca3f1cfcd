package daemon

import (
	"os"

	"banger/api"
	"banger/internal/kernelcat"
)

func pid() int { return os.Getpid() }

func wireKernel(k kernelcat.Kernel) api.Kernel {
	return api.Kernel{
		Name: k.Name, Distro: k.Distro, Arch: k.Arch, Version: k.Version, SHA256: k.SHA256, Source: k.Source,
		ImportedAt: k.ImportedAt, KernelPath: k.Path, InitrdPath: k.InitrdPath, ModulesDir: k.ModulesDir,
		SizeBytes: k.SizeBytes,
	}
}
