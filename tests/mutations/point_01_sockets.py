"""Where connections may lead, and when they end."""

from __future__ import annotations

from tests.mutations.table import Point, Protection, fault

POINT = Point(
    1,
    "The socket guard",
    (
        Protection(
            "No address is contacted that is not public.",
            "shared/network/ssrf_guard.py",
            "        if not self._exempt(host, port) and not all(is_public(address) for address in addresses):",
            "        if False:",
            (
                fault("F09"),
                "tests/shared/network/test_network.py::test_a_name_with_a_private_address_is_not_contacted",
                "tests/shared/network/test_network.py::test_numbers_that_a_resolver_takes_for_addresses_are_judged_as_such",
            ),
            shows="httpx.ReadTimeout",
        ),
        Protection(
            "One address that is not public is enough to refuse a name.",
            "shared/network/ssrf_guard.py",
            "not all(is_public(",
            "not any(is_public(",
            (fault("F10"), "tests/shared/network/test_network.py::test_one_private_address_among_public_ones_is_enough_to_refuse"),
            shows="httpx.ReadTimeout",
        ),
        Protection(
            "The address that was judged is the one that is contacted, whatever the name means a moment later.",
            "shared/network/ssrf_guard.py",
            "self._sockets.connect_tcp(address, port,",
            "self._sockets.connect_tcp(str(self._resolve(host, port, type=1)[0][4][0]), port,",
            ("tests/shared/network/test_network.py::test_the_address_that_was_judged_is_the_one_that_is_contacted", fault("F10")),
        ),
        Protection(
            "The metadata of Azure, of Alibaba and of Oracle are not public, though Python calls some of them so.",
            "shared/network/address_policy.py",
            "        return not any(parsed in network for network in _CLOSED_V4)",
            "        return parsed.is_global",
            ("tests/shared/network/test_network.py::test_an_address_that_is_not_of_the_public_internet_is_recognised",),
        ),
        Protection(
            "An IPv4 address inside an IPv6 one is judged as what it is.",
            "shared/network/address_policy.py",
            " and not carries_v4 and",
            " and",
            ("tests/shared/network/test_network.py::test_an_address_that_is_not_of_the_public_internet_is_recognised",),
        ),
        Protection(
            "Tunnels, 6to4 and other special networks of IPv6 are closed.",
            "shared/network/address_policy.py",
            "return parsed in _OPEN_V6 and not carries_v4 and not any(parsed in network for network in _CLOSED_V6)",
            "return parsed in _OPEN_V6 and not carries_v4",
            ("tests/shared/network/test_network.py::test_an_address_that_is_not_of_the_public_internet_is_recognised",),
        ),
        Protection(
            "What is mapped into IPv6 is judged as IPv4, so that public addresses stay public and others do not.",
            "shared/network/address_policy.py",
            "    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:",
            "    if False:",
            ("tests/shared/network/test_network.py::test_a_public_address_is_recognised",),
        ),
        Protection(
            "A redirect is judged like the first URL.",
            "shared/fetch.py",
            "        for _ in range(redirects + 1):\n            self._check(url)\n",
            "        self._check(url)\n        for _ in range(redirects + 1):\n",
            (fault("F11"), "tests/shared/test_fetch.py::test_a_redirect_is_judged_like_the_first_url"),
        ),
        Protection(
            "Redirects are followed three times.",
            "shared/fetch.py",
            "        for _ in range(redirects + 1):",
            "        for _ in range(redirects + 50):",
            ("tests/shared/test_fetch_storage.py::test_a_path_is_never_redirected",),
        ),
        Protection(
            "HTTP itself follows no redirect on its own, with a key in its headers.",
            "shared/network/ssrf_guard.py",
            "follow_redirects=False",
            "follow_redirects=True",
            ("tests/shared/storage/test_supabase.py::test_the_key_never_follows_a_redirect",),
        ),
        Protection(
            "A user name in a URL, behind which another host may hide, is refused.",
            "shared/fetch.py",
            "        if url.userinfo:",
            "        if False:",
            ("tests/shared/test_fetch.py::test_a_url_that_leads_where_it_may_not_is_refused",),
        ),
        Protection(
            "Nothing but https is fetched.",
            "shared/fetch.py",
            '        if url.scheme != "https" or not url.host:',
            "        if False:",
            ("tests/shared/test_fetch.py::test_a_url_that_leads_where_it_may_not_is_refused",),
        ),
        Protection(
            "No port but 443 is contacted.",
            "shared/fetch.py",
            "        if origin(url)[2] != 443:",
            "        if False:",
            ("tests/shared/test_fetch.py::test_a_url_that_leads_where_it_may_not_is_refused",),
        ),
        Protection(
            "Only the hosts are contacted that the operator allows.",
            "shared/fetch.py",
            "        if allowed and url.host not in allowed:",
            "        if False:",
            ("tests/shared/test_fetch.py::test_only_the_hosts_that_the_operator_allows_are_contacted",),
        ),
        Protection(
            "One deadline counts for all of an answer, so that a host that drips gains nothing.",
            "shared/network/ssrf_guard.py",
            "        left = self._deadline.left\n        if left == 0.0:\n            raise passed",
            "        left = 1.0\n        if left == 0.0:\n            raise passed",
            (fault("F13"),),
        ),
        Protection(
            "The look-up of a name ends by the deadline, too.",
            "shared/network/address_policy.py",
            "    thread.join(deadline.left)",
            "    thread.join(20.0)",
            ("tests/shared/network/test_network.py::test_a_name_service_that_hangs_costs_no_more_than_the_deadline",),
        ),
        Protection(
            "No connection is kept for another request.",
            "shared/network/ssrf_guard.py",
            "max_keepalive_connections=0",
            "max_keepalive_connections=10",
            ("tests/shared/network/test_network.py::test_every_request_has_a_connection_of_its_own",),
        ),
        Protection(
            "A certificate belongs to the name that was asked for.",
            "shared/network/ssrf_guard.py",
            "self._stream.start_tls(ssl_context, server_hostname,",
            "self._stream.start_tls(ssl._create_unverified_context(), server_hostname,",
            (
                "tests/shared/test_fetch_storage.py::test_a_certificate_of_another_name_is_refused",
                "tests/shared/test_fetch_storage.py::test_a_certificate_of_an_unknown_authority_is_refused",
            ),
        ),
    ),
)
