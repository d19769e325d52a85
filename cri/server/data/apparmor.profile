# What a container may do unless it asks otherwise: everything inside its own namespaces, but no mounts, no writing to the
# kernel's settings in /proc and /sys, and no signals or tracing across its border.
profile windlass-default flags=(attach_disconnected, mediate_deleted) {
  capability,
  file,
  network,
  unix,
  umount,
  deny mount,

  # From the node's runtime and tools, and among the container's own processes.
  signal (receive) peer=unconfined,
  signal (receive) peer=runc,
  signal (receive) peer=crun,
  signal (send, receive) peer=windlass-default,
  ptrace (trace, read, tracedby, readby) peer=windlass-default,

  # Of /proc only the folders of processes may be written, and of its sys/ only shared memory and the network.
  deny /proc/* w,
  deny /proc/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9]*}/** w,
  deny /proc/sys/[^kn]** w,
  deny /proc/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny /proc/sysrq-trigger rwklx,
  deny /proc/kcore rwklx,

  # Of /sys only the cgroups may be written.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
