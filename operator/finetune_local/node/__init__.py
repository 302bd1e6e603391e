"""The local cluster's only node: a scheduler, and pods run as processes of this machine.

What the stand-in does not do, because a process has no mount, network or PID namespace here:

- Paths. Every volumeMount is a directory of the pod's sandbox. Where a container's mountPath, its
  terminationMessagePath, or a directory that exists only as the parent of one, occurs as a path in an environment
  value, an argument or a command word, it is rewritten to the real place. A path that a program has built in is
  not: give it by env or argument.
- Names. All pods share 127.0.0.1; `<hostname>.<subdomain>…` of a pod's own subdomain becomes that address in the
  same places, and pods that listen share the ports.
- Programs. An image is a name in a table (`images.py`) with the program it starts; there is no file system of its
  own, user, capability or seccomp profile. Secrets and ConfigMaps are copied once, and not updated in running pods.
- Probes, lifecycle hooks, ephemeral and sidecar containers, exec, attach and port-forward are not offered: a
  running container is ready.
- Memory limits are watched about once a second; CPU limits are not enforced.
"""
