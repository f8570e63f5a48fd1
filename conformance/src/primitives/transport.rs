//! Bodies over loopback HTTP/1.1 with bare hyper: what the server's end alone costs. The other end is a raw socket in a thread of its own.

use super::{CHUNK, per_gib, thread_cpu};
use bytes::Bytes;
use futures::stream;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// Serves one connection on a thread of its own while `client` runs here; gives the CPU of that thread.
fn serve(arena: &[u8], bytes: usize, client: impl FnOnce(SocketAddr) -> io::Result<()>) -> io::Result<Duration> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let arena = Bytes::copy_from_slice(arena);
    std::thread::scope(|scope| {
        let server = scope.spawn(move || -> io::Result<Duration> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(connection(listener, arena, bytes))
        });
        client(address)?;
        server.join().unwrap_or_else(|_| Err(io::Error::other("the measuring server panicked")))
    })
}

async fn connection(listener: TcpListener, arena: Bytes, bytes: usize) -> io::Result<Duration> {
    listener.set_nonblocking(true)?;
    let (stream, _) = tokio::net::TcpListener::from_std(listener)?.accept().await?;
    stream.set_nodelay(true)?;
    let before = thread_cpu();
    let service = service_fn(move |request| answer(request, arena.clone(), bytes));
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.map_err(io::Error::other)?;
    Ok(thread_cpu() - before)
}

type Out = StreamBody<stream::Iter<Box<dyn Iterator<Item = Result<Frame<Bytes>, Infallible>> + Send>>>;

async fn answer(mut request: Request<Incoming>, arena: Bytes, bytes: usize) -> Result<Response<Out>, hyper::Error> {
    let length = if request.method() == http::Method::GET { bytes } else { 0 };
    while let Some(frame) = request.body_mut().frame().await {
        std::hint::black_box(frame?.data_ref());
    }
    let chunks = arena.len() / CHUNK;
    let frames = (0..length / CHUNK).map(move |i| Ok(Frame::data(arena.slice(i % chunks * CHUNK..(i % chunks + 1) * CHUNK))));
    let mut response = Response::new(StreamBody::new(stream::iter(Box::new(frames) as Box<dyn Iterator<Item = _> + Send>)));
    response.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
    Ok(response)
}

/// CPU per GiB of taking a body in.
///
/// # Errors
/// Of loopback sockets.
pub fn receive(arena: &[u8], bytes: usize) -> io::Result<f64> {
    let bytes = bytes / CHUNK * CHUNK;
    let cpu = serve(arena, bytes, |address| {
        let mut stream = TcpStream::connect(address)?;
        write!(stream, "PUT / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {bytes}\r\n\r\n")?;
        for chunk in arena.chunks_exact(CHUNK).cycle().take(bytes / CHUNK) {
            stream.write_all(chunk)?;
        }
        read_to_end(stream).map(drop)
    })?;
    Ok(per_gib(cpu, bytes))
}

/// CPU per GiB of sending a body out.
///
/// # Errors
/// Of loopback sockets, or an answer that is too short.
pub fn send(arena: &[u8], bytes: usize) -> io::Result<f64> {
    let bytes = bytes / CHUNK * CHUNK;
    let cpu = serve(arena, bytes, |address| {
        let mut stream = TcpStream::connect(address)?;
        write!(stream, "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let got = read_to_end(stream)?;
        if got < bytes { Err(io::Error::other(format!("{got} of {bytes} bytes came"))) } else { Ok(()) }
    })?;
    Ok(per_gib(cpu, bytes))
}

fn read_to_end(mut stream: TcpStream) -> io::Result<usize> {
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(total),
            got => total += got,
        }
    }
}
