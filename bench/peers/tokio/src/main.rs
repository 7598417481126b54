//! A line server on Tokio, written as its documentation suggests: a task per connection, a broadcast
//! channel per topic, one item of the channel per message. It speaks the line protocol without
//! replay, and trusts its publishers to end lines with CR LF: bytes are forwarded as they came.
//!
//!     tokio-server [--threads N] [--nodelay] [--write-each] PORT
//!
//! A publisher's reads are cut into messages without copying (`BytesMut::split_to`, `freeze`), and
//! all complete lines of a read enter the channel before the task yields. A subscriber writes through
//! a `BufWriter` that is flushed when the channel is empty, so that what has piled up meanwhile
//! leaves in one write and a lone message leaves at once. With `--write-each` every message is
//! written by itself, and whether the kernel merges them is up to Nagle.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use memchr::memchr;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

/// What a publisher asks the kernel for at once.
const READ_BYTES: usize = 128 * 1024;
/// What a subscriber's writer gathers; a longer message bypasses it.
const WRITE_BYTES: usize = 64 * 1024;
/// A longer line closes its publisher, a longer command its connection.
const LINE_BYTES_MAX: usize = 2 * 1024 * 1024;
const COMMAND_BYTES_MAX: usize = 4096;
const TOPIC_BYTES_MAX: usize = 255;
/// A subscriber further behind than this many messages is closed as a slow consumer.
const CHANNEL_MESSAGES: usize = 4096;
const BACKLOG: u32 = 4096;

#[derive(Clone, Copy, Default)]
struct Options {
    port: u16,
    threads: usize,
    nodelay: bool,
    write_each: bool,
}

type Topics = Arc<Mutex<HashMap<String, broadcast::Sender<Bytes>>>>;

enum Command {
    Publish(String),
    Subscribe(String),
    Bad(&'static str),
}

fn topic(topics: &Topics, name: String) -> broadcast::Sender<Bytes> {
    let mut topics = topics.lock().unwrap();
    topics
        .entry(name)
        .or_insert_with(|| broadcast::channel(CHANNEL_MESSAGES).0)
        .clone()
}

/// Takes the first complete line, ending included, out of the buffer. `seen` bytes at its start were
/// searched before and hold no ending.
fn take_line(buffer: &mut BytesMut, seen: &mut usize) -> Option<Bytes> {
    match memchr(b'\n', &buffer[*seen..]) {
        Some(at) => {
            let line = buffer.split_to(*seen + at + 1).freeze();
            *seen = 0;
            Some(line)
        }
        None => {
            *seen = buffer.len();
            None
        }
    }
}

fn without_ending(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn parse(line: &[u8]) -> Command {
    let text = match std::str::from_utf8(line) {
        Ok(text) => text,
        Err(_) => return Command::Bad("ERROR malformed command\r\n"),
    };
    let (publish, name) = match text.split_once(' ') {
        Some(("PUBLISH", name)) => (true, name),
        Some(("SUBSCRIBE", name)) => (false, name),
        _ => return Command::Bad("ERROR malformed command\r\n"),
    };
    if name.is_empty()
        || name.len() > TOPIC_BYTES_MAX
        || name.contains(|c: char| c == ' ' || c.is_control())
    {
        return Command::Bad("ERROR bad topic\r\n");
    }
    if publish {
        Command::Publish(name.to_owned())
    } else {
        Command::Subscribe(name.to_owned())
    }
}

/// Reads more into the buffer; false is the end of the connection. A buffer with little room gets
/// `bytes` of it: messages on their way keep the old memory, so doing it for each read would be dear.
async fn read_more(
    reader: &mut OwnedReadHalf,
    buffer: &mut BytesMut,
    bytes: usize,
) -> io::Result<bool> {
    if buffer.capacity() - buffer.len() < (bytes / 4).max(1) {
        buffer.reserve(bytes);
    }
    Ok(reader.read_buf(buffer).await? > 0)
}

async fn publish(
    mut reader: OwnedReadHalf,
    mut buffer: BytesMut,
    channel: broadcast::Sender<Bytes>,
) -> io::Result<()> {
    let mut seen = 0;

    loop {
        while let Some(line) = take_line(&mut buffer, &mut seen) {
            if without_ending(&line) == b"BYE" {
                return Ok(());
            }
            // Nobody listening is no error: a publisher needs no subscribers.
            let _ = channel.send(line);
        }
        if buffer.len() > LINE_BYTES_MAX {
            return Ok(());
        }
        let room = READ_BYTES.max(buffer.len());
        if !read_more(&mut reader, &mut buffer, room).await? {
            return Ok(());
        }
    }
}

/// Delivers until the subscriber is too slow.
async fn deliver(
    writer: OwnedWriteHalf,
    mut messages: broadcast::Receiver<Bytes>,
    write_each: bool,
) -> io::Result<()> {
    let mut writer = BufWriter::with_capacity(if write_each { 0 } else { WRITE_BYTES }, writer);

    loop {
        let message = match messages.try_recv() {
            Ok(message) => message,
            Err(TryRecvError::Empty) => {
                writer.flush().await?;
                match messages.recv().await {
                    Ok(message) => message,
                    Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => return Ok(()),
                }
            }
            Err(TryRecvError::Lagged(_)) => break,
            Err(TryRecvError::Closed) => return Ok(()),
        };
        writer.write_all(&message).await?;
    }
    writer.write_all(b"ERROR slow consumer\r\n").await?;
    writer.flush().await
}

/// Returns when the subscriber has said goodbye or gone; anything else that it says is ignored.
async fn goodbye(mut reader: OwnedReadHalf, mut buffer: BytesMut) -> io::Result<()> {
    let mut seen = 0;

    loop {
        while let Some(line) = take_line(&mut buffer, &mut seen) {
            if without_ending(&line) == b"BYE" {
                return Ok(());
            }
        }
        if buffer.len() > COMMAND_BYTES_MAX || !read_more(&mut reader, &mut buffer, 64).await? {
            return Ok(());
        }
    }
}

async fn serve(stream: TcpStream, topics: Topics, options: Options) -> io::Result<()> {
    stream.set_nodelay(options.nodelay)?;

    let (mut reader, mut writer) = stream.into_split();
    let mut buffer = BytesMut::new();
    let mut seen = 0;
    let line = loop {
        if let Some(line) = take_line(&mut buffer, &mut seen) {
            break line;
        }
        if buffer.len() > COMMAND_BYTES_MAX || !read_more(&mut reader, &mut buffer, 512).await? {
            return Ok(());
        }
    };

    match parse(without_ending(&line)) {
        Command::Publish(name) => {
            writer.write_all(b"OK\r\n").await?;
            publish(reader, buffer, topic(&topics, name)).await
        }
        Command::Subscribe(name) => {
            let messages = topic(&topics, name).subscribe();
            writer.write_all(b"OK\r\n").await?;
            tokio::select! {
                done = deliver(writer, messages, options.write_each) => done,
                done = goodbye(reader, buffer) => done,
            }
        }
        Command::Bad(reply) => writer.write_all(reply.as_bytes()).await,
    }
}

async fn listen(options: Options) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::LOCALHOST, options.port).into())?;
    let listener = socket.listen(BACKLOG)?;
    let topics = Topics::default();

    eprintln!("ready");
    loop {
        let (stream, _) = listener.accept().await?;
        let topics = topics.clone();
        tokio::spawn(async move {
            // A connection that ends badly ends alone.
            let _ = serve(stream, topics, options).await;
        });
    }
}

fn usage() -> ! {
    eprintln!("usage: tokio-server [--threads N] [--nodelay] [--write-each] PORT");
    std::process::exit(2)
}

fn options() -> Options {
    let mut options = Options {
        threads: 1,
        ..Options::default()
    };
    let mut arguments = std::env::args().skip(1);

    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--nodelay" => options.nodelay = true,
            "--write-each" => options.write_each = true,
            "--threads" => {
                let threads = arguments.next().and_then(|n| n.parse().ok());
                options.threads = threads.unwrap_or_else(|| usage());
            }
            port => options.port = port.parse().unwrap_or_else(|_| usage()),
        }
    }
    if options.port == 0 || options.threads == 0 {
        usage();
    }
    options
}

fn main() -> io::Result<()> {
    let options = options();
    let runtime = if options.threads == 1 {
        tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?
    } else {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(options.threads)
            .enable_io()
            .build()?
    };
    // The listener has a task of its own: the thread that waits here is no worker.
    runtime.block_on(async move { tokio::spawn(listen(options)).await? })
}
