//! Names below `/dev` of volumes that lie on others, as udev's rules of LVM, MD and cryptsetup make
//! them, and GRUB's names for the same.
//!
//! lvm2 `udev/10-dm.rules.in`, `11-dm-lvm.rules.in`; mdadm `udev-md-raid-arrays.rules`; device-mapper
//! doubles the hyphens of group and volume names (libdm `dm_build_dm_name`); GRUB manual 2.06, 13.1.

/// Folders of `/dev` that are no volume groups.
const FOLDERS: [&str; 18] = [
    "block",
    "bus",
    "char",
    "cciss",
    "cpu",
    "disk",
    "dri",
    "fd",
    "hugepages",
    "ida",
    "input",
    "mqueue",
    "net",
    "pts",
    "rd",
    "shm",
    "snd",
    "vfio",
];

/// Names below `/dev`, and GRUB's names.
pub(crate) type Links = (Vec<String>, Vec<String>);

/// The name below `/dev` that is looked up, when `name` (below `/dev` too) is that of a volume on
/// others.
pub(super) fn stacked(name: &str) -> Option<String> {
    if let Some(id) = name.strip_prefix("disk/by-id/") {
        return match id.strip_prefix("dm-name-") {
            Some(name) => Some(format!("mapper/{name}")),
            None if id.starts_with("md-") => Some(id.to_owned()),
            None => by_uuid(id.strip_prefix("dm-uuid-")?),
        };
    }
    let number = name.strip_prefix("md");
    if number.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit() || c == '_')) {
        return Some(name.to_owned());
    }
    let (folder, rest) = name.split_once('/')?;
    let plain = !folder.is_empty() && !rest.is_empty() && !rest.contains('/');
    (plain && !FOLDERS.contains(&folder)).then(|| name.to_owned())
}

/// Device-mapper's UUID: of it counts what names the volume alone.
fn by_uuid(id: &str) -> Option<String> {
    if let Some(both) = id.strip_prefix("LVM-") {
        return Some(format!("dm-uuid-LVM-{}", both.get(32..64)?));
    }
    let mut parts = id.strip_prefix("CRYPT-LUKS")?.split('-');
    Some(format!("dm-uuid-CRYPT-{}", parts.nth(1)?))
}

/// Whether the name is one that the kernel numbers itself: `md127`.
pub(super) fn is_array_number(name: &str) -> bool {
    name.strip_prefix("md")
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Names of the logical volume `group/volume`.
pub(crate) fn logical_links(name: &str, uuid: Option<&str>) -> Links {
    let doubled: Vec<String> = name
        .splitn(2, '/')
        .map(|part| part.replace('-', "--"))
        .collect();
    let mapper = doubled.join("-");
    let mut links = vec![name.to_owned(), format!("mapper/{mapper}")];
    let mut grub = vec![format!("lvm/{mapper}")];
    if let Some(uuid) = uuid {
        links.push(format!("dm-uuid-LVM-{}", uuid.replace('-', "")));
        grub.push(format!("lvmid/{uuid}"));
    }
    (links, grub)
}

/// Names of the array with this UUID, and of the name (`host:0`) in its superblock. The first is
/// made of the UUID.
pub(crate) fn array_links(uuid: &str, name: Option<&str>) -> Links {
    let mut links = vec![format!("md-uuid-{}", colons(uuid))];
    let mut grub = vec![format!("mduuid/{}", uuid.replace('-', ""))];
    if let Some(name) = name {
        links.push(format!("md-name-{name}"));
        let short = name.rsplit(':').next().unwrap_or(name);
        links.push(format!("md/{short}"));
        grub.push(format!("md/{short}"));
        if is_array_number(&format!("md{short}")) {
            links.push(format!("md{short}"));
        }
    }
    (links, grub)
}

/// Names of the plain side of the encrypted volume with this UUID, as installers choose them.
pub(crate) fn crypt_links(uuid: &str) -> Links {
    let bare = uuid.replace('-', "");
    let links = vec![
        format!("mapper/luks-{uuid}"),
        format!("dm-uuid-CRYPT-{bare}"),
    ];
    (links, vec![format!("cryptouuid/{bare}")])
}

/// An array's UUID as mdadm prints it, in four groups.
pub(super) fn colons(uuid: &str) -> String {
    let bare: Vec<char> = uuid.chars().filter(char::is_ascii_hexdigit).collect();
    let groups: Vec<String> = bare
        .chunks(8)
        .map(|group| group.iter().collect::<String>().to_lowercase())
        .collect();
    groups.join(":")
}
