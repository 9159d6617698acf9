#!/usr/bin/env bash
# Usage: tests/packages.sh demo|share|test|torture|peers
#
# Installs the Debian packages that the demo or the tests call, where something is missing and this
# is root on a machine with apt-get. Anywhere else it says, loudly, what will not run. Never fails:
# the demo and the tests have their own words for what they lack.
set -euo pipefail

purpose=${1:?demo, share, test, torture or peers}
PATH=$PATH:/usr/sbin:/sbin

# program or module, package, what needs it
needs="\
mke2fs     e2fsprogs    file systems on the demo's disks
sfdisk     fdisk        partition tables on the demo's disks
"
[ "$purpose" = demo ] || needs+="\
smbd       samba        every test against a real SMB share, the demo with source enhanced
"
[ "$purpose" != test ] || needs+="\
smbclient  smbclient    tests that look at a share with other eyes
acl_xattr.so samba-vfs-modules accounts that may create and nothing else
chromium   chromium     a test that fills in a form of the Prefect UI
chromedriver chromium-driver a test that fills in a form of the Prefect UI
qemu-img   qemu-utils   tests that compare disks with an independent reader
mkfs.xfs   xfsprogs     files read from XFS
mkfs.btrfs btrfs-progs  files read from btrfs
mkfs.vfat  dosfstools   files read from FAT
mcopy      mtools       files read from FAT
mkntfs     ntfs-3g      files read from NTFS
fusermount3 fuse3       versions as folders
lvcreate   lvm2         files read from LVM over two disks
"
[ "$purpose" != peers ] || needs="\
mke2fs     e2fsprogs    disks to measure on
debootstrap debootstrap disks to measure on, with a Debian on them
borg       borgbackup   the comparison with borg
restic     restic       the comparison with restic
"
[ "$purpose" != torture ] || needs+="\
debootstrap debootstrap the image of delegates
restic     restic       the comparison with restic
syslinux   syslinux     the image of delegates
syslinux   syslinux-common the image of delegates
qemu-system-x86_64 qemu-system-x86 the image of delegates, booted
ssh        openssh-client the image of delegates, booted
systemd-analyze systemd the units of the guide
nginx      nginx-light  the proxy of the guide
openssl    openssl      the proxy of the guide
pg_ctlcluster postgresql-common Prefect on PostgreSQL
psql       postgresql   Prefect on PostgreSQL
"

present() { # program, or module of samba
  case $1 in
    *.so) compgen -G "/usr/lib/*/samba/vfs/$1" >/dev/null ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

missing_of() { # prints "program package what needs it" for each program not found
  while read -r program package reason; do
    present "$program" || printf '%s %s %s\n' "$program" "$package" "$reason"
  done <<<"${needs%$'\n'}"
}

install() ( # packages
  export DEBIAN_FRONTEND=noninteractive
  # A package must not start a daemon on this machine's interfaces; the tests start their own.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
  fi
  apt-get -qq update </dev/null &&
    apt-get -qq install --yes --no-install-recommends "$@" </dev/null >/dev/null
)

missing=$(missing_of)
[ -n "$missing" ] || exit 0

packages=$(awk '{print $2}' <<<"$missing" | sort -u | tr '\n' ' ')
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "Installing Debian packages: $packages" >&2
  # shellcheck disable=SC2086 # a list of words on purpose
  install $packages >&2 || echo "apt-get could not install all of: $packages" >&2
  missing=$(missing_of)
  [ -n "$missing" ] || exit 0
fi

{
  echo "======================================================================"
  echo "Not everything can run: some programs are missing here."
  while read -r program package reason; do
    printf '  %-10s (package %s): %s\n' "$program" "$package" "$reason"
  done <<<"$missing"
  echo "To run all: apt-get install $(awk '{print $2}' <<<"$missing" | sort -u | tr '\n' ' ')"
  [ "$purpose" != test ] || echo "Those tests are skipped below; with CI=true they fail."
  echo "======================================================================"
} >&2
