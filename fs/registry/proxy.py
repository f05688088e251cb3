"""Which proxy a URL goes through, by the usual environment variables.

A proxy's URL may hold a login, which is sent to the proxy alone and shown nowhere.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from fs.format.errors import UsageError
from fs.registry.address import is_loopback, origin, shown


def proxies_for(url: str, environment: Mapping[str, str]) -> dict[str, str]:
    """{scheme: proxy URL} for `url`, or {}; loopback is never asked of a proxy.

    UsageError for a proxy of a kind that is not supported.
    """
    scheme, host, port = origin(url)
    if is_loopback(host) or _excluded(host, port, _variable(environment, "no_proxy")):
        return {}
    proxy = _variable(environment, f"{scheme}_proxy") or _variable(environment, "all_proxy")
    if not proxy:
        return {}
    return {scheme: _checked(proxy if "://" in proxy else f"http://{proxy}")}


def _checked(proxy: str) -> str:
    try:
        parts = urlsplit(proxy)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        where = f"proxy {shown(proxy)}"
    except ValueError:
        usable, where = False, "malformed URL of a proxy"
    if not usable:
        raise UsageError(f"{where}: only http and https proxies are supported")
    return proxy


def _variable(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name) or environment.get(name.upper()) or ""


def _excluded(host: str, port: int, no_proxy: str) -> bool:
    return any(_matches(host, port, rule.strip()) for rule in no_proxy.split(",") if rule.strip())


def _matches(host: str, port: int, rule: str) -> bool:
    if rule == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(rule, strict=False)
    except ValueError:
        pass
    name, colon, rule_port = rule.rpartition(":")
    if colon and rule_port.isdigit():
        if int(rule_port) != port:
            return False
        rule = name.strip("[]")
    rule = rule.lower().lstrip("*").lstrip(".")
    return host == rule or host.endswith(f".{rule}")
