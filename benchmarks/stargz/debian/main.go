// The stargz snapshotter from the library that Debian 12 packages, for its compiler, without
// modules: SOCKET ROOT CONFIG.json, of which the names of plain HTTP registries count.
package main

import (
	"context"
	"encoding/json"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/contrib/snapshotservice"
	"github.com/containerd/containerd/reference"
	"github.com/containerd/containerd/remotes/docker"
	"github.com/containerd/stargz-snapshotter/fs"
	"github.com/containerd/stargz-snapshotter/fs/config"
	"github.com/containerd/stargz-snapshotter/fs/source"
	"github.com/containerd/stargz-snapshotter/snapshot"
	"google.golang.org/grpc"
)

type settings struct {
	Resolver struct {
		Host map[string]json.RawMessage `json:"host"`
	} `json:"resolver"`
}

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: containerd-stargz-grpc SOCKET ROOT CONFIG.json")
	}
	socket, root, file := os.Args[1], os.Args[2], os.Args[3]
	text, err := os.ReadFile(file)
	var given settings
	if err == nil {
		err = json.Unmarshal(text, &given)
	}
	if err != nil {
		log.Fatal(err)
	}
	// The library takes the client's transport as it is, and http.DefaultClient has none.
	client := &http.Client{Transport: http.DefaultTransport}
	hosts := docker.ConfigureDefaultRegistries(docker.WithClient(client),
		docker.WithPlainHTTP(func(host string) (bool, error) {
			_, plain := given.Resolver.Host[host]
			return plain, nil
		}))
	bySpec := func(spec reference.Spec) ([]docker.RegistryHost, error) { return hosts(spec.Hostname()) }
	layers, err := fs.NewFilesystem(filepath.Join(root, "stargz"), config.Config{},
		fs.WithGetSources(source.FromDefaultLabels(bySpec)))
	if err != nil {
		log.Fatal(err)
	}
	snapshotter, err := snapshot.NewSnapshotter(context.Background(),
		filepath.Join(root, "snapshotter"), layers, snapshot.AsynchronousRemove)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
	listener, err := net.Listen("unix", socket)
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(server.Serve(listener))
}
