// SPDX-License-Identifier: Apache-2.0
#include "watchdog_links.hpp"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <system_error>
#include <utility>

namespace fedspallm::comm::watchdog {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kBacklog = 4096;
constexpr std::size_t kReadPiece = 16384;
/// An address that nothing answers from (behind a firewall, of a virtual network) may cost so long.
constexpr std::chrono::seconds kAddressLimit{3};

std::string errno_text() {
  return std::generic_category().message(errno);
}

std::string numeric(const sockaddr* address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  const void* number = nullptr;
  if (address->sa_family == AF_INET) {
    number = &reinterpret_cast<const sockaddr_in*>(address)->sin_addr;
  } else if (address->sa_family == AF_INET6) {
    const auto& ipv6 = reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr;
    if (IN6_IS_ADDR_LINKLOCAL(&ipv6)) return {};  // means nothing without the other host's interface
    number = &ipv6;
  }
  if (number == nullptr) return {};
  const char* made = inet_ntop(address->sa_family, number, text.data(), static_cast<socklen_t>(text.size()));
  return made == nullptr ? std::string() : std::string(made);
}

/// Addresses of this host that are up, those that others may reach first.
std::vector<std::string> own_addresses() {
  ifaddrs* list = nullptr;
  check<LaunchError>(getifaddrs(&list) == 0,
                     fmt::format("watchdog: cannot list network interfaces: {}", errno_text()));
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> owner(list, freeifaddrs);
  std::vector<std::string> outer;
  std::vector<std::string> inner;
  for (const ifaddrs* item = list; item != nullptr; item = item->ifa_next) {
    if (item->ifa_addr == nullptr || (item->ifa_flags & IFF_UP) == 0) continue;
    const std::string text = numeric(item->ifa_addr);
    if (text.empty()) continue;
    ((item->ifa_flags & IFF_LOOPBACK) != 0 ? inner : outer).push_back(text);
  }
  outer.insert(outer.end(), inner.begin(), inner.end());
  return outer;
}

Socket new_socket(int family) {
  return Socket(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

void send_at_once(int fd) {
  const int on = 1;
  (void)::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);  // only a delay when it fails
}

/// A socket bound to any free port: of both families where the host has IPv6, else of IPv4.
Socket bound_to_all() {
  Socket both = new_socket(AF_INET6);
  if (both) {
    const int off = 0;
    sockaddr_in6 any{};
    any.sin6_family = AF_INET6;
    if (::setsockopt(both.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) == 0 &&
        ::bind(both.get(), reinterpret_cast<const sockaddr*>(&any), sizeof any) == 0)
      return both;
  }
  Socket only = new_socket(AF_INET);
  sockaddr_in any{};
  any.sin_family = AF_INET;
  check<LaunchError>(only && ::bind(only.get(), reinterpret_cast<const sockaddr*>(&any), sizeof any) == 0,
                     fmt::format("watchdog: cannot get a TCP port: {}", errno_text()));
  return only;
}

Socket bound_to_loopback() {
  Socket socket = new_socket(AF_INET);
  sockaddr_in loopback{};
  loopback.sin_family = AF_INET;
  loopback.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  check<LaunchError>(
      socket && ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&loopback), sizeof loopback) == 0,
      fmt::format("watchdog: cannot get a TCP port of 127.0.0.1: {}", errno_text()));
  return socket;
}

std::uint16_t port_of(const Socket& socket) {
  sockaddr_storage own{};
  socklen_t length = sizeof own;
  check<LaunchError>(::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&own), &length) == 0,
                     fmt::format("watchdog: getsockname failed: {}", errno_text()));
  const auto port = own.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(own).sin6_port
                                              : reinterpret_cast<const sockaddr_in&>(own).sin_port;
  return ntohs(port);
}

/// Waits for the descriptor. @return false when the time was over first
bool wait_for(int fd, short events, Clock::time_point end) {
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
    pollfd item{fd, events, 0};
    const int ready = ::poll(&item, 1, static_cast<int>(std::clamp<std::int64_t>(left, 0, 1'000'000)));
    if (ready > 0) return true;
    if (ready == 0 && left <= 0) return false;
    if (ready < 0 && errno != EINTR) return false;
  }
}

/// @throws LaunchError saying why not
Socket connected(const std::string& host, std::uint16_t port, Clock::time_point end) {
  sockaddr_in ipv4{};
  sockaddr_in6 ipv6{};
  const bool is_ipv6 = ::inet_pton(AF_INET6, host.c_str(), &ipv6.sin6_addr) == 1;
  check<LaunchError>(is_ipv6 || ::inet_pton(AF_INET, host.c_str(), &ipv4.sin_addr) == 1, "no address");
  ipv4.sin_family = AF_INET;
  ipv4.sin_port = htons(port);
  ipv6.sin6_family = AF_INET6;
  ipv6.sin6_port = htons(port);
  Socket socket = new_socket(is_ipv6 ? AF_INET6 : AF_INET);
  check<LaunchError>(static_cast<bool>(socket), errno_text());
  send_at_once(socket.get());
  const auto* address =
      is_ipv6 ? reinterpret_cast<const sockaddr*>(&ipv6) : reinterpret_cast<const sockaddr*>(&ipv4);
  const socklen_t length = is_ipv6 ? sizeof ipv6 : sizeof ipv4;
  if (::connect(socket.get(), address, length) == 0) return socket;
  check<LaunchError>(errno == EINPROGRESS || errno == EINTR, errno_text());
  check<LaunchError>(wait_for(socket.get(), POLLOUT, end), "no answer");
  int code = 0;
  socklen_t size = sizeof code;
  check<LaunchError>(::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &code, &size) == 0, errno_text());
  check<LaunchError>(code == 0, std::generic_category().message(code));
  return socket;
}

/// @throws Error saying why not
Link greeted(Socket socket, const Hello& hello, const std::array<std::uint64_t, 2>& expected,
             Clock::time_point end) {
  Link link(std::move(socket));
  link.send(encode_hello(hello));
  for (;;) {
    check<LaunchError>(wait_for(link.fd(), POLLIN, end), "connected, but no answer");
    const bool open = link.receive();
    if (const auto frame = link.next()) {
      check<LaunchError>(decode_welcome(*frame) == expected, "another job answers");
      return link;
    }
    check<LaunchError>(open, "connected, but the other side closed the connection");
  }
}

}  // namespace

Listener::Listener(bool this_host_only) : socket_(this_host_only ? bound_to_loopback() : bound_to_all()) {
  check<LaunchError>(::listen(socket_.get(), kBacklog) == 0,
                     fmt::format("watchdog: cannot listen for other ranks: {}", errno_text()));
  address_.port = port_of(socket_);
  address_.hosts = this_host_only ? std::vector<std::string>{"127.0.0.1"} : own_addresses();
}

Socket Listener::accept() const {
  Socket caller(::accept4(socket_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (caller) send_at_once(caller.get());
  if (!caller && (errno == EMFILE || errno == ENFILE)) {
    const std::string why = errno_text();
    rlimit limit{};
    (void)::getrlimit(RLIMIT_NOFILE, &limit);
    throw LaunchError(
        fmt::format("the watchdog cannot accept further ranks' connections: {} (this process may have {}): "
                    "raise the limit (ulimit -n, LimitNOFILE)",
                    why, limit.rlim_cur));
  }
  return caller;
}

bool Link::receive() {
  std::array<char, kReadPiece> piece{};
  for (;;) {
    const ssize_t got = ::recv(socket_.get(), piece.data(), piece.size(), 0);
    if (got > 0) {
      reader_.add(std::span(piece).first(static_cast<std::size_t>(got)));
      if (static_cast<std::size_t>(got) == piece.size()) continue;
      return true;  // poll() tells of more, also of the end
    }
    if (got < 0 && errno == EINTR) continue;
    return got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
  }
}

void Link::send(const std::string& bytes) {
  waiting_ += bytes;
  flush();
}

void Link::flush() {
  while (!waiting_.empty()) {
    const ssize_t sent = ::send(socket_.get(), waiting_.data(), waiting_.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    if (sent < 0) waiting_.clear();  // broken: receive() tells
    if (sent > 0) waiting_.erase(0, static_cast<std::size_t>(sent));
  }
}

Link reach(const HubAddress& hub, const Hello& hello, const std::array<std::uint64_t, 2>& expected_answer,
           std::chrono::duration<double> limit) {
  const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(limit);
  std::string tried;
  for (const std::string& host : hub.hosts) {
    const auto until = std::min(end, Clock::now() + Clock::duration(kAddressLimit));
    try {
      return greeted(connected(host, hub.port, until), hello, expected_answer, until);
    } catch (const Error& error) {
      tried += fmt::format("{}{} port {} ({})", tried.empty() ? "" : ", ", host, hub.port, error.what());
    }
  }
  throw LaunchError(
      fmt::format("the watchdog's connection to rank {} failed; tried {}. The ranks' hosts must "
                  "be able to open TCP connections to each other on any port: ask for that, or "
                  "run on hosts between which no firewall stands",
                  hello.hub, tried.empty() ? "nothing: that host has no address" : tried));
}

void allow_descriptors(std::uint64_t needed) {
  rlimit limit{};
  check<LaunchError>(::getrlimit(RLIMIT_NOFILE, &limit) == 0,
                     fmt::format("watchdog: getrlimit failed: {}", errno_text()));
  check<LaunchError>(
      limit.rlim_max >= needed,
      fmt::format("the watchdog of this many ranks needs {} open files in one process, and only "
                  "{} are allowed: raise the hard limit (ulimit -Hn, LimitNOFILE)",
                  needed, limit.rlim_max));
  if (limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  check<LaunchError>(::setrlimit(RLIMIT_NOFILE, &limit) == 0,
                     fmt::format("watchdog: setrlimit failed: {}", errno_text()));
}

}  // namespace fedspallm::comm::watchdog
