//! A function of Shunt's own contract that does what the request's body says, as in `loop` or `answer 1000`.

use std::{hint::black_box, time::Duration};

wit_bindgen::generate!({
    path: "../../../wit",
    world: "shunt:functions/function",
    generate_all,
});

use exports::shunt::functions::handler::{Guest, Request, Response};

struct Unruly;

impl Guest for Unruly {
    fn handle(request: Request) -> Result<Response, String> {
        let order = String::from_utf8_lossy(&request.body).into_owned();
        let (order, number) = order.split_once(' ').unwrap_or((&order, ""));
        let number: usize = number.parse().unwrap_or(0);
        let body = match order {
            "loop" => spin(),
            "sleep" => {
                std::thread::sleep(Duration::from_secs(3600));
                Vec::new()
            }
            "allocate" => allocate(),
            "recurse" => recurse(number).to_string().into_bytes(),
            "answer" => vec![b'x'; number],
            "trap" => core::arch::wasm32::unreachable(),
            "panic" => panic!("as told"),
            "refuse" if number > 0 => return Err("é".repeat(number)),
            "refuse" => return Err("as told".to_owned()),
            "exit" => std::process::exit(3),
            "print" => {
                println!("out");
                eprintln!("err");
                eprint!("no end of line");
                Vec::new()
            }
            "print-much" => {
                for line in 0..number {
                    println!("line {line}");
                }
                Vec::new()
            }
            "handles" => handles(),
            "random" => wasip2::random::random::get_random_bytes(number as u64),
            "headers" => headers(),
            "bodies" => bodies(number).to_string().into_bytes(),
            "sockets" => sockets(number).into_bytes(),
            "read-file" => format!("{:?}", std::fs::read("/etc/hostname")).into_bytes(),
            "connect" => format!("{:?}", std::net::TcpStream::connect("127.0.0.1:1")).into_bytes(),
            "look-up" => {
                let found = std::net::ToSocketAddrs::to_socket_addrs(&("localhost", 80));
                format!("{:?}", found.map(Iterator::count)).into_bytes()
            }
            "environment" => format!("{:?} {:?}", std::env::vars().count(), std::env::args().count()).into_bytes(),
            _ => request.body,
        };
        Ok(Response { content_type: request.content_type, body })
    }
}

fn spin() -> Vec<u8> {
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

fn allocate() -> Vec<u8> {
    loop {
        black_box(vec![1_u8; 1 << 20]).leak();
    }
}

#[allow(unconditional_recursion)]
fn recurse(depth: usize) -> usize {
    black_box(recurse(black_box(depth + 1)) + 1)
}

/// Takes handles without end and gives none back.
fn handles() -> Vec<u8> {
    loop {
        core::mem::forget(wasip2::clocks::monotonic_clock::subscribe_duration(1));
    }
}

/// Makes answers that nobody asked for, writes to their bodies as much as goes, and keeps them; bytes that went.
fn bodies(number: usize) -> u64 {
    let mut all = 0;
    for _ in 0..number {
        let answer = wasip2::http::types::OutgoingResponse::new(wasip2::http::types::Fields::new());
        let body = answer.body().unwrap();
        let stream = body.write().unwrap();
        for _ in 0..10 {
            let room = stream.check_write().unwrap_or(0).min(1 << 20);
            if room == 0 || stream.write(&vec![b'x'; room as usize]).is_err() {
                break;
            }
            all += room;
        }
        drop(stream);
        core::mem::forget((answer, body));
    }
    all
}

/// Takes sockets and gives none back; how many there were, and what was said of the next.
fn sockets(number: usize) -> String {
    use wasip2::sockets::{
        network::IpAddressFamily, tcp_create_socket::create_tcp_socket, udp_create_socket::create_udp_socket,
    };
    for had in 0..number {
        let tcp = create_tcp_socket(IpAddressFamily::Ipv4).map(core::mem::forget);
        let udp = create_udp_socket(IpAddressFamily::Ipv6).map(core::mem::forget);
        if let (Err(tcp), Err(udp)) = (tcp, udp) {
            return format!("{had} {tcp:?} {udp:?}");
        }
    }
    "all".to_owned()
}

/// Makes headers without end.
fn headers() -> Vec<u8> {
    let fields = wasip2::http::types::Fields::new();
    for number in 0_u64.. {
        if fields.append(&format!("x-{number}"), &vec![b'x'; 1 << 10]).is_err() {
            return b"refused".to_vec();
        }
    }
    Vec::new()
}

export!(Unruly);
