#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# /init of the development VM's initramfs, run by a static busybox: builds the root out of the
# host's files and hands over to pid1.py there. devvm/kernel.py fills in the @words@.
set -eu

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
insmod /overlay.ko

# The host's root, read-only, under a tmpfs: whatever is written in here is gone afterwards.
mount -t virtiofs -o ro hostroot /lower
mount -t tmpfs -o mode=755 upper /upper
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work overlay /root

for dir in proc sys dev; do mount --move /$dir /root/$dir; done
cd /root
mkdir -p dev/pts dev/shm dev/mqueue run
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t mqueue mqueue dev/mqueue
mount -t tmpfs -o mode=755 run run
mkdir -p run/lock
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
ln -snf /proc/self/fd dev/fd
ln -snf /proc/self/fd/0 dev/stdin
ln -snf /proc/self/fd/1 dev/stdout
ln -snf /proc/self/fd/2 dev/stderr

# This kernel's modules, unpacked in the host's cache: from here on modprobe and autoloading work.
# In usr/lib, because lib is a symbolic link there since Debian 12.
modules=usr/lib/modules/@release@
mkdir -p "$modules"
mount --bind /root/@modules@ "$modules"
mount -t virtiofs results /root/@results@

# What nothing loads by itself (xfs: the kernel looks for modprobe in the initramfs until the switch).
chroot . modprobe -a kvm_amd xfs loop tun virtio_blk
mkdir -p var/lib/cube
mount -t xfs dev/vda var/lib/cube

ip link set lo up
address=@address@
if [ -n "$address" ]; then
    chroot . modprobe virtio_net
    ip address add "$address" dev eth0
    ip link set eth0 up
fi
hostname devvm
ulimit -n 1048576 2>/dev/null || ulimit -n "$(cat /proc/sys/fs/nr_open)"

exec switch_root /root @python@ -I -S @pid1@
