// The stargz snapshotter as containerd runs it, from its library: SOCKET ROOT CONFIG.json.
// Its own command is not in the Go module that can be had from module proxies.
package main

import (
	"context"
	"encoding/json"
	"log"
	"net"
	"os"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/stargz-snapshotter/service"
	"google.golang.org/grpc"
)

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: containerd-stargz-grpc SOCKET ROOT CONFIG.json")
	}
	socket, root, file := os.Args[1], os.Args[2], os.Args[3]
	text, err := os.ReadFile(file)
	var config service.Config
	if err == nil {
		err = json.Unmarshal(text, &config)
	}
	if err != nil {
		log.Fatal(err)
	}
	snapshotter, err := service.NewStargzSnapshotterService(context.Background(), root, &config)
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
