"""Real clients and real peers: Docker, containerd, podman, buildah, skopeo, and Distribution on the same tree."""
