//! Texts that are found in guests: lists of modules, and the files of an inspection.

/// What each module needs.
pub(super) const MODULES_DEP: &[u8] = b"kernel/drivers/block/virtio_blk.ko.xz: kernel/drivers/virtio/virtio.ko.xz kernel/drivers/virtio/virtio_ring.ko.xz
kernel/drivers/virtio/virtio.ko.xz:
kernel/drivers/virtio/virtio_ring.ko.xz: kernel/drivers/virtio/virtio.ko.xz
";
/// What each module drives.
pub(super) const MODULES_ALIAS: &[u8] = b"# Aliases extracted from modules themselves.
alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci
alias virtio:d00000002v* virtio_blk
";
/// What is to be loaded besides.
pub(super) const MODULES_SOFTDEP: &[u8] = b"softdep virtio_pci pre: virtio_ring virtio post: x y
softdep libcrc32c pre: crc32c
";

/// A Debian with GRUB, ifupdown and netplan.
pub(super) const DEBIAN: &[u8] = b"=== /etc/os-release
PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"
NAME=\"Debian GNU/Linux\"
VERSION_ID=\"12\"
ID=debian
=== /etc/debian_version
12.5
=== /etc/hostname
web
=== /etc/fstab
# <file system> <mount point> <type> <options> <dump> <pass>
UUID=5c0f3f0e-9a53-4d0e-8f0b-6f1c8a0d2b12 / ext4 errors=remount-ro 0 1
/dev/sda5 none swap sw 0 0
LABEL=data /srv/\\040data xfs defaults,noatime 0 2
=== /etc/network/interfaces
auto lo
iface lo inet loopback
allow-hotplug ens192
iface ens192 inet static
\taddress 192.0.2.10/24
\tgateway 192.0.2.1
\tdns-nameservers 192.0.2.53
source /etc/network/interfaces.d/*
=== /etc/netplan/50-cloud-init.yaml
network:
    version: 2
    ethernets:
        ens160: {dhcp4: true, match: {macaddress: \"00:50:56:00:00:01\"}}
        ens161:
            addresses: [10.0.0.2/8, \"2001:db8::2/64\"]
            nameservers:
                addresses:
                - 10.0.0.1
=== /etc/udev/rules.d/70-persistent-net.rules
SUBSYSTEM==\"net\", ACTION==\"add\", ATTR{address}==\"00:50:56:00:00:01\", NAME=\"eth0\"
=== /etc/default/grub
GRUB_CMDLINE_LINUX_DEFAULT=\"quiet console=ttyS0\"
GRUB_DEFAULT=0
=== /boot/grub/grub.cfg
set default=\"0\"
function load_video { insmod all_video; }
if [ x$feature_default_font_path = xy ] ; then font=unicode; fi
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple' {
\tsearch --no-floppy --fs-uuid --set=root 5c0f3f0e-9a53-4d0e-8f0b-6f1c8a0d2b12
\tlinux /boot/vmlinuz-6.1.0-18-amd64 root=UUID=5c0f3f0e ro quiet
\tinitrd /boot/initrd.img-6.1.0-18-amd64
}
submenu 'Advanced' { for i in 1 2; do echo $i; done }
=== /boot/vmlinuz-6.1.0-18-amd64
MZ
=== /boot/initrd.img-6.1.0-18-amd64
070701
=== /boot/config-6.1.0-18-amd64
CONFIG_VIRTIO_BLK=m
CONFIG_EXT4_FS=y
=== /lib/modules/6.1.0-18-amd64/modules.dep
kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio.ko:
=== /lib/modules/6.1.0-18-amd64/modules.builtin
kernel/fs/ext4/ext4.ko
=== /var/lib/dpkg/status
Package: open-vm-tools
Status: install ok installed
Architecture: amd64
Version: 2:12.2.0-1

";
/// A relative of Fedora with boot loader entries, ifcfg and NetworkManager.
pub(super) const FEDORA: &[u8] = b"=== /usr/lib/os-release
NAME=\"Rocky Linux\"
ID=\"rocky\"
ID_LIKE=\"rhel centos fedora\"
VERSION_ID=\"9.3\"
=== /etc/os-release
-> ../usr/lib/os-release
=== /etc/redhat-release
Rocky Linux release 9.3 (Blue Onyx)
=== /etc/fstab
/dev/mapper/rl-root / xfs defaults 0 0
/dev/disk/by-id/scsi-36000c29-part1 /boot xfs defaults 0 0
=== /etc/sysconfig/network-scripts/ifcfg-ens192
TYPE=Ethernet
BOOTPROTO=none
IPADDR=192.0.2.20
PREFIX=24
GATEWAY=192.0.2.1
HWADDR=00:50:56:00:00:02
ONBOOT=\"yes\"
=== /etc/NetworkManager/system-connections/ens224.nmconnection
[connection]
id=ens224
type=ethernet
interface-name=ens224
[ipv4]
method=manual
address1=10.1.1.2/24,10.1.1.1
dns=10.1.1.1;10.1.1.3;
=== /etc/systemd/network/10-x.network
[Match]
MACAddress=00:50:56:00:00:03
[Network]
DHCP=yes
=== /boot/loader/entries/abc-5.14.0-362.el9.x86_64.conf
title Rocky Linux (5.14.0-362.el9.x86_64) 9.3
version 5.14.0-362.el9.x86_64
linux /vmlinuz-5.14.0-362.el9.x86_64
initrd /initramfs-5.14.0-362.el9.x86_64.img $tuned_initrd
options $kernelopts $tuned_params
grub_class rocky
=== /boot/grub2/grubenv
# GRUB Environment Block
saved_entry=abc-5.14.0-362.el9.x86_64
kernelopts=root=/dev/mapper/rl-root ro crashkernel=1G-4G:192M
####################
=== /boot/grub2/grub.cfg
load_env -f ${config_directory}/grubenv
if [ \"${env_block}\" ] ; then set env_block=\"(${root})${env_block}\"; fi
set default=\"${saved_entry}\"
insmod blscfg
blscfg
=== /boot/vmlinuz-5.14.0-362.el9.x86_64
MZ
=== /etc/dracut.conf.d/x.conf
add_drivers+=\" virtio_blk \"
hostonly=\"no\"
=== /etc/crypttab
luks-1 UUID=1 none discard
=== /etc/selinux/config
SELINUX=enforcing
SELINUXTYPE=targeted
";
/// An Alpine with extlinux, and an old GRUB.
pub(super) const ALPINE: &[u8] = b"=== /etc/os-release
ID=alpine
VERSION_ID=3.19.1
=== /etc/alpine-release
3.19.1
=== /etc/fstab
UUID=abc\t/\text4\trw,relatime 0 1
/dev/nvme0n1p1 /boot vfat rw 0 2
=== /boot/extlinux.conf
DEFAULT menu.c32
PROMPT 0
TIMEOUT 10
LABEL lts
  MENU LABEL Linux lts
  LINUX vmlinuz-lts
  INITRD initramfs-lts
  APPEND root=UUID=abc modules=sd-mod,usb-storage,ext4 quiet rootfstype=ext4
MENU SEPARATOR
=== /boot/vmlinuz-lts
MZ
=== /boot/grub/menu.lst
default 0
title Old
root (hd0,0)
kernel /vmlinuz root=/dev/sda1
initrd /initrd.img
=== /etc/network/interfaces
auto eth0
iface eth0 inet dhcp
=== /etc/mkinitfs/mkinitfs.conf
features=\"ata base ext4 scsi virtio\"
=== /lib/apk/db/installed
P:linux-lts
V:6.6.16-r0

";
