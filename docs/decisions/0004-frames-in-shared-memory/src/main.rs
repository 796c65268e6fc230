//! The iceoryx2 half of decision 4: the same work as `cargo run -p shunt-frames --example hand_over`.
//!
//! `cargo run --release -- [frames] [readers]` measures; `cargo run --release -- kill` kills writers and readers.
//! A program to be run by hand, outside the workspace: it says `unwrap`.

use iceoryx2::prelude::*;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

const LEN: usize = 640 * 480 * 3;
fn now() -> u64 {
    let mut t = unsafe { std::mem::zeroed::<libc::timespec>() };
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}
fn pct(v: &mut [u64]) -> String {
    v.sort_unstable();
    let at = |p: f64| v.get((v.len() as f64 * p) as usize).map_or(0, |n| n / 1000);
    format!("{:>5} / {:>5}", at(0.5), at(0.99))
}
type E = Box<dyn std::error::Error>;
macro_rules! services {
    ($node:ident, $ps:ident, $ev:ident) => {
        let $node = NodeBuilder::new().create::<ipc::Service>()?;
        let $ps = $node
            .service_builder(&"frames".try_into()?)
            .publish_subscribe::<[u8]>()
            .max_publishers(1)
            .max_subscribers(8)
            .enable_safe_overflow(true)
            .subscriber_max_buffer_size(2)
            .history_size(1)
            .open_or_create()?;
        let $ev = $node
            .service_builder(&"frames-ev".try_into()?)
            .event()
            .max_notifiers(2)
            .max_listeners(8)
            .open_or_create()?;
    };
}
fn main() -> Result<(), E> {
    let a: Vec<String> = std::env::args().collect();
    match a.get(1).map(String::as_str) {
        Some("reader") => reader(false),
        Some("holder") => reader(true),
        Some("writer") => endless(),
        Some("kill") => kill(),
        _ => bench(a.get(1).map_or(2000, |n| n.parse().unwrap()), a.get(2).map_or(3, |n| n.parse().unwrap())),
    }
}
fn bench(frames: usize, readers: usize) -> Result<(), E> {
    services!(node, ps, ev);
    let publisher = ps.publisher_builder().initial_max_slice_len(LEN).create()?;
    let notifier = ev.notifier_builder().create()?;
    let children: Vec<_> = (0..readers)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .arg("reader")
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    while ps.dynamic_config().number_of_subscribers() < readers {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(200));
    let picture: Vec<u8> = (0..LEN).map(|b| b as u8).collect();
    let mut writes = vec![];
    for i in 0..=frames {
        let begin = now();
        let mut sample = publisher.loan_slice_uninit(LEN)?;
        let out = sample.payload_mut();
        unsafe { std::ptr::copy_nonoverlapping(picture.as_ptr(), out.as_mut_ptr().cast(), LEN) };
        let stamp = if i == frames { 0 } else { begin };
        unsafe { std::ptr::copy_nonoverlapping(stamp.to_le_bytes().as_ptr(), out.as_mut_ptr().cast(), 8) };
        let sample = unsafe { sample.assume_init() };
        sample.send()?;
        notifier.notify()?;
        writes.push(now() - begin);
        std::thread::sleep(Duration::from_millis(5));
    }
    println!(
        "{frames} frames of 640x480x3, {readers} readers, microseconds (p50 / p99)\nwrite      {}",
        pct(&mut writes)
    );
    for c in children {
        print!("{}", String::from_utf8(c.wait_with_output()?.stdout)?);
    }
    Ok(())
}
fn reader(hold: bool) -> Result<(), E> {
    services!(node, ps, ev);
    let subscriber = ps.subscriber_builder().create()?;
    let listener = ev.listener_builder().create()?;
    let (mut over, mut zero, mut copies, mut copy) = (vec![], vec![], vec![], Vec::with_capacity(LEN));
    loop {
        listener.blocking_wait(|_| {})?;
        while let Some(sample) = subscriber.receive()? {
            let got = now();
            let begin = u64::from_le_bytes(sample[..8].try_into()?);
            if hold {
                println!("holding");
                std::io::stdout().flush()?;
                loop {
                    std::thread::sleep(Duration::from_secs(9));
                }
            }
            if begin == 0 {
                println!(
                    "hand-over  {}, of it the copy {}; without a copy {}; {} frames",
                    pct(&mut over),
                    pct(&mut copies),
                    pct(&mut zero),
                    over.len()
                );
                return Ok(());
            }
            copy.clear();
            copy.extend_from_slice(&sample);
            let done = now();
            over.push(done - begin);
            copies.push(done - got);
            zero.push(got - begin);
        }
    }
}
fn endless() -> Result<(), E> {
    services!(node, ps, ev);
    let publisher = ps.publisher_builder().initial_max_slice_len(LEN).create()?;
    let notifier = ev.notifier_builder().create()?;
    let mut n = 0u64;
    loop {
        let mut sample = publisher.loan_slice_uninit(LEN)?;
        unsafe { std::ptr::write_bytes(sample.payload_mut().as_mut_ptr().cast::<u8>(), 7, LEN) };
        let sample = unsafe { sample.assume_init() };
        sample.send()?;
        notifier.notify()?;
        n += 1;
        println!("{n}");
        std::io::stdout().flush()?;
        std::thread::sleep(Duration::from_millis(2));
    }
}
fn kill() -> Result<(), E> {
    use std::io::BufRead;
    let exe = std::env::current_exe()?;
    let start = |what: &str| {
        let mut c =
            Command::new(&exe).arg(what).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let l = std::io::BufReader::new(c.stdout.take().unwrap()).lines();
        (c, l)
    };
    for round in 0..12 {
        let t = now();
        let (mut w, mut wl) = start("writer");
        if wl.next().is_none() {
            let mut e = String::new();
            std::io::Read::read_to_string(&mut w.stderr.take().unwrap(), &mut e)?;
            println!("round {round}: the new writer cannot start: {}", e.lines().last().unwrap_or("?"));
            continue;
        }
        println!("round {round}: writer's first frame after {} ms", (now() - t) / 1_000_000);
        let mut holders: Vec<_> = (0..2).map(|_| start("holder")).collect();
        for (h, hl) in &mut holders {
            if hl.next().is_none() {
                let mut e = String::new();
                std::io::Read::read_to_string(&mut h.stderr.take().unwrap(), &mut e)?;
                println!("  reader cannot start: {}", e.lines().last().unwrap_or("?"));
            }
        }
        for _ in 0..round * 3 {
            wl.next();
        }
        for (h, _) in &mut holders {
            h.kill()?;
            h.wait()?;
        }
        for _ in 0..20 {
            if wl.next().is_none() {
                println!("  the writer ended after its readers were killed");
                break;
            }
        }
        w.kill()?;
        w.wait()?;
    }
    let count = |p: &str| std::fs::read_dir(p).map(|d| d.count()).unwrap_or(0);
    println!(
        "left in /tmp/iceoryx2: {} entries, /dev/shm: {} files",
        count("/tmp/iceoryx2"),
        count("/dev/shm")
    );
    Ok(())
}
