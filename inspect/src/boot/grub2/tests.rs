//! Menus as distributions generate them, run over a disk of a few named files.

use std::collections::BTreeMap;

use super::run::{Menu, SearchBy, World, run};
use crate::text::Text;

#[derive(Default)]
struct Fake(BTreeMap<(String, String), String>);

impl Fake {
    fn with(files: &[(&str, &str, &str)]) -> Self {
        let files = files.iter().map(|(device, path, content)| {
            (
                ((*device).to_owned(), (*path).to_owned()),
                (*content).to_owned(),
            )
        });
        Self(files.collect())
    }
}

impl World for Fake {
    fn text(&self, device: &str, path: &str) -> Option<Text> {
        let content = self.0.get(&(device.to_owned(), path.to_owned()))?;
        Some(Text::new(path, content.as_bytes()))
    }

    fn size(&self, device: &str, path: &str) -> Option<u64> {
        self.text(device, path)
            .map(|text| u64::try_from(text.content.len()).unwrap())
    }

    fn list(&self, device: &str, path: &str) -> Vec<String> {
        let folder = format!("{path}/");
        self.0
            .keys()
            .filter(|(at, _)| at == device)
            .filter_map(|(_, file)| file.strip_prefix(&folder).map(str::to_owned))
            .collect()
    }

    fn search(&self, by: SearchBy, value: &str) -> Option<String> {
        match by {
            SearchBy::Uuid if value == "ROOT" => Some("hd0,msdos2".to_owned()),
            SearchBy::Label if value == "boot" => Some("hd0,msdos1".to_owned()),
            SearchBy::File => {
                let keys = self.0.keys();
                keys.into_iter()
                    .find(|(_, path)| path == value)
                    .map(|(device, _)| device.clone())
            }
            _ => None,
        }
    }
}

fn menu(config: &str, files: &[(&str, &str, &str)]) -> Menu {
    let text = Text::new("/boot/grub/grub.cfg", config.as_bytes());
    run(&Fake::with(files), "hd0,msdos1", "/grub", "pc", &text)
}

const DEBIAN: &str = r#"
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="${saved_entry}"
fi

if [ x"${feature_menuentry_id}" = xy ]; then
  menuentry_id_option="--id"
else
  menuentry_id_option=""
fi
export menuentry_id_option

function load_video {
  if [ x$feature_all_video_module = xy ]; then
    insmod all_video
  else
    insmod efi_gop
  fi
}
if loadfont unicode ; then
  set gfxmode=auto
fi
function gfxmode {
	set gfxpayload="${1}"
}
set linux_gfx_mode=
export linux_gfx_mode
menuentry 'Debian GNU/Linux' --class debian --class os $menuentry_id_option 'gnulinux-simple-ROOT' {
	load_video
	insmod gzio
	if [ x$grub_platform = xxen ]; then insmod xzio; insmod lzopio; fi
	set root='hd9,msdos9'
	if [ x$feature_platform_search_hint = xy ]; then
	  search --no-floppy --fs-uuid --set=root --hint-bios=hd0,msdos2 --hint='hd0,msdos2'  ROOT
	else
	  search --no-floppy --fs-uuid --set=root ROOT
	fi
	echo	'Loading Linux 6.1.0-18-amd64 ...'
	linux	/boot/vmlinuz-6.1.0-18-amd64 root=UUID=ROOT ro  quiet "dyndbg=file a b"
	initrd	/boot/initrd.img-6.1.0-18-amd64
}
submenu 'Advanced options' $menuentry_id_option 'gnulinux-advanced-ROOT' {
	menuentry 'Linux 6.1.0-18' --class debian $menuentry_id_option 'six-18' {
		linux	/boot/vmlinuz-6.1.0-18-amd64 root=UUID=ROOT ro
		initrd	/boot/early.img /boot/initrd.img-6.1.0-18-amd64
	}
	menuentry 'Linux 6.1.0-17 (recovery)' $menuentry_id_option 'six-17' {
		search --set=root --label boot
		linux	/boot/vmlinuz-6.1.0-17-amd64 root=UUID=ROOT ro single
	}
}
if [ "$grub_platform" = "efi" ]; then
	menuentry 'UEFI Firmware Settings' $menuentry_id_option 'uefi-firmware' {
		fwsetup
	}
fi
"#;

#[test]
fn a_debian_menu_gives_entries_with_their_devices_lines_and_indexes() {
    let menu = menu(DEBIAN, &[]);
    assert_eq!(menu.problems, []);
    let indexes: Vec<&str> = menu.entries.iter().map(|e| e.index.as_str()).collect();
    assert_eq!(indexes, ["0", "1>0", "1>1"]);
    let first = &menu.entries[0];
    assert_eq!(first.title, "Debian GNU/Linux");
    assert_eq!(first.id.as_deref(), Some("gnulinux-simple-ROOT"));
    let kernel = first.loads.kernel.as_ref().unwrap();
    assert_eq!(kernel.device, "hd0,msdos2");
    assert_eq!(kernel.path, "/boot/vmlinuz-6.1.0-18-amd64");
    assert_eq!(
        first.loads.command_line,
        "root=UUID=ROOT ro quiet \"dyndbg=file a b\""
    );
    let line = DEBIAN.lines().position(|l| l.contains("dyndbg")).unwrap() + 1;
    let place = first.loads.place.as_ref().unwrap();
    assert_eq!(place.line, Some(u32::try_from(line).unwrap()));
    assert_eq!(menu.entries[1].loads.initrds.len(), 2);
    // Entries do not see each other's `root`.
    let devices: Vec<&str> = menu.entries[1..]
        .iter()
        .map(|e| e.loads.kernel.as_ref().unwrap().device.as_str())
        .collect();
    assert_eq!(devices, ["hd0,msdos1", "hd0,msdos1"]);
    assert_eq!(super::default(&menu).0, Some(0));
}

#[test]
fn the_default_follows_the_saved_entry_by_id_path_title_and_position() {
    let env = |value: &str| format!("# GRUB Environment Block\nsaved_entry={value}\n#####");
    for (saved, expected) in [
        ("six-17", 2),
        ("gnulinux-advanced-ROOT>six-17", 2),
        ("Advanced options>Linux 6.1.0-18", 1),
        ("1>1", 2),
        ("1", 1),
        ("0", 0),
        ("gone", 0),
        ("", 0),
    ] {
        let menu = menu(DEBIAN, &[("hd0,msdos1", "/grub/grubenv", &env(saved))]);
        let (default, reason) = super::default(&menu);
        assert_eq!(default, Some(expected), "{saved}: {reason}");
    }
    let once = "saved_entry=six-18\nnext_entry=six-17\n";
    let menu = menu(DEBIAN, &[("hd0,msdos1", "/grub/grubenv", once)]);
    assert_eq!(super::default(&menu).0, Some(2));
}

#[test]
fn boot_loader_specification_entries_come_newest_first_with_kernelopts() {
    let config = "set default=\"${saved_entry}\"\nload_env -f ${prefix}/grubenv\n\
                  set default=\"${saved_entry}\"\n\
                  insmod blscfg\nblscfg\nmenuentry 'Firmware' { fwsetup\n}\n";
    let entry = |version: &str| {
        format!(
            "title RHEL {version}\nversion {version}\nlinux /vmlinuz-{version}\n\
             initrd /initramfs-{version}.img $tuned_initrd\n\
             options $kernelopts $tuned_params\nid x\n"
        )
    };
    let menu = menu(
        config,
        &[
            (
                "hd0,msdos1",
                "/loader/entries/m-4.18.0-80.conf",
                &entry("4.18.0-80"),
            ),
            (
                "hd0,msdos1",
                "/loader/entries/m-4.18.0-193.conf",
                &entry("4.18.0-193"),
            ),
            ("hd0,msdos1", "/loader/entries/README", "no entry"),
            (
                "hd0,msdos1",
                "/grub/grubenv",
                "saved_entry=m-4.18.0-80\nkernelopts=root=/dev/mapper/r-root ro crashkernel=auto \n",
            ),
        ],
    );
    let titles: Vec<&str> = menu.entries.iter().map(|e| e.title.as_str()).collect();
    assert_eq!(titles, ["RHEL 4.18.0-193", "RHEL 4.18.0-80", "Firmware"]);
    let old = &menu.entries[1].loads;
    assert_eq!(
        old.command_line,
        "root=/dev/mapper/r-root ro crashkernel=auto"
    );
    assert_eq!(old.initrds.len(), 1);
    assert_eq!(old.place.as_ref().unwrap().line, Some(5));
    assert_eq!(super::default(&menu).0, Some(1));
}

#[test]
fn a_stub_on_the_system_partition_leads_to_the_real_menu() {
    let stub = "search.fs_uuid ROOT root hd0,msdos2\nset prefix=($root)'/boot/grub'\n\
                configfile $prefix/grub.cfg\n";
    let real = "menuentry x { linux /boot/k a\n}\n";
    let menu = menu(stub, &[("hd0,msdos2", "/boot/grub/grub.cfg", real)]);
    assert_eq!(menu.problems, []);
    let kernel = menu.entries[0].loads.kernel.as_ref().unwrap();
    assert_eq!(kernel.device, "hd0,msdos2");
    assert_eq!(
        menu.entries[0].loads.place.as_ref().unwrap().path,
        "/boot/grub/grub.cfg"
    );
}

#[test]
fn tests_loops_and_functions_behave_as_in_grub() {
    let config = "function f { set x=\"$1$2\"\n}\nf a b\n\
        for i in 1 2 3; do set n=\"$n$i\"; done\n\
        set i=; until [ \"$i\" = aaa ]; do set i=a$i; done\n\
        if [ ! -f /nothing -a \"$n\" = 123 ]; then set ok=1; fi\n\
        if [ 2 -gt 10 -o \"$x\" != ab ]; then set ok=; fi\n\
        if test -z \"$missing\" ; then set two=2 ; elif true; then set two=3; fi\n\
        menuentry \"$x $n $i $ok $two\" { true\n}\n";
    assert_eq!(menu(config, &[]).entries[0].title, "ab 123 aaa 1 2");
}

#[test]
fn hostile_scripts_end() {
    let doubling = format!("set a=xxxxxxxx\n{}", "set a=$a$a$a$a\n".repeat(1000));
    let itself = [(
        "hd0,msdos1",
        "/grub/grub.cfg",
        "source /grub/grub.cfg\nsource /grub/grub.cfg\n",
    )];
    for (config, files) in [
        ("while true; do set a=b$a; done\n", [].as_slice()),
        ("function f { f\nf\n}\nf\n", &[]),
        ("source /grub/grub.cfg\n", &itself),
        (doubling.as_str(), &[]),
    ] {
        assert!(menu(config, files).entries.is_empty());
    }
    let many = "menuentry x { linux /k\n}\n".repeat(5000);
    assert_eq!(menu(&many, &[]).entries.len(), 1000);
    let bangs = format!(
        "if [ {} a ]; then menuentry y {{ true\n}}\nfi\n",
        "! ".repeat(100_001)
    );
    assert!(menu(&bangs, &[]).entries.is_empty());
}

#[test]
fn what_is_not_followed_is_reported_with_its_line() {
    let menu = menu("true\nregexp --set=x (.*) y\nmenuentry 'x' {\n", &[]);
    let lines: Vec<Option<u32>> = menu.problems.iter().map(|(place, _)| place.line).collect();
    assert_eq!(lines, [Some(3), Some(2)]);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    #[test]
    fn a_damaged_menu_never_panics(at in 0..DEBIAN.len(), byte in proptest::prelude::any::<u8>()) {
        let mut bytes = DEBIAN.as_bytes().to_vec();
        bytes[at] = byte;
        menu(&String::from_utf8_lossy(&bytes), &[]);
    }

    #[test]
    fn arbitrary_scripts_never_panic(text in "[a-z ={}\\[\\]$\"';\\n\\\\#]{0,200}") {
        menu(&text, &[]);
    }
}
