"""Where webhooks may go."""

import pytest

from controlplane.alerts.errors import AddressRefused, DeliveryFailed, InvalidChannel
from controlplane.alerts.networks import Reach, look_up

# (address, whether it is reached over https at each reach: public, loopback, private)
ADDRESSES = [
    ("8.8.8.8", "+++"),
    ("2001:4860:4860::8888", "+++"),
    ("::ffff:8.8.8.8", "+++"),
    ("64:ff9b::808:808", "+++"),  # NAT64: of 8.8.8.8
    ("127.0.0.1", "-++"),
    ("127.255.255.254", "-++"),
    ("::1", "-++"),
    ("::ffff:127.0.0.1", "-++"),
    ("64:ff9b::7f00:1", "-++"),
    ("2002:7f00:1::", "-++"),  # 6to4: of 127.0.0.1
    ("10.0.0.1", "--+"),
    ("172.16.0.1", "--+"),
    ("192.168.1.1", "--+"),
    ("100.64.0.1", "--+"),
    ("192.0.0.8", "--+"),
    ("64:ff9b:1::1", "--+"),
    ("198.18.0.1", "--+"),
    ("240.0.0.1", "--+"),
    ("fd00::1", "--+"),
    ("fec0::1", "--+"),
    ("::ffff:10.0.0.1", "--+"),
    ("64:ff9b::a00:1", "--+"),
    ("2002:a00:1::", "--+"),
    ("::7f00:1", "--+"),  # "IPv4-compatible", which nobody uses in good faith
    ("169.254.169.254", "---"),
    ("::ffff:169.254.169.254", "---"),
    ("64:ff9b::a9fe:a9fe", "---"),
    ("2002:a9fe:a9fe::", "---"),
    ("fe80::1", "---"),
    ("fe80::1%eth0", "---"),
    ("168.63.129.16", "---"),
    ("100.100.100.200", "---"),
    ("192.0.0.192", "---"),
    ("fd00:ec2::254", "---"),
    ("0.0.0.0", "---"),  # noqa: S104 - refused, not bound to
    ("::", "---"),
    ("224.0.0.1", "---"),
    ("ff02::1", "---"),
    ("255.255.255.255", "--+"),
]


def may_go(address, reach, scheme="https"):
    try:
        look_up(f"{scheme}://receiver.example/hook", reach=reach, resolve=lambda host, port: [address])
    except AddressRefused:
        return "-"
    return "+"


@pytest.mark.parametrize(("address", "expected"), ADDRESSES)
def test_each_address_is_reached_or_refused(address, expected):
    """However it is written, what counts is where the packets end."""
    assert "".join(may_go(address, reach) for reach in Reach) == expected


@pytest.mark.parametrize("reach", Reach)
def test_nothing_goes_outside_in_the_clear(reach):
    """http is for what does not leave the machine, or one's own network."""
    assert may_go("8.8.8.8", reach, "http") == "-"
    assert may_go("127.0.0.1", Reach.LOOPBACK, "http") == may_go("10.0.0.1", Reach.PRIVATE, "http") == "+"


def test_one_bad_address_of_several_is_enough():
    """Else it would be a matter of luck where a name leads."""
    with pytest.raises(AddressRefused, match=r"'receiver.example' is at 10.0.0.1, a private network"):
        look_up("https://receiver.example/", reach=Reach.PUBLIC, resolve=lambda host, port: ["8.8.8.8", "10.0.0.1"])


def test_host_is_looked_up_once_with_the_port_of_its_scheme():
    """Whoever connects gets the addresses, in their order."""
    asked = []

    def resolve(host, port):
        asked.append((host, port))
        return ["8.8.8.8", "1.1.1.1"]

    place = look_up("https://Receiver.example/hook", reach=Reach.PUBLIC, resolve=resolve)

    assert asked == [("receiver.example", 443)]
    assert (place.host, place.addresses) == ("receiver.example", ("8.8.8.8", "1.1.1.1"))


def test_name_without_an_address_is_a_matter_of_time():
    """It may have one again, so that a delivery is tried again."""

    def fail(host, port):
        raise OSError("Name or service not known")

    for resolve in (fail, lambda host, port: []):
        with pytest.raises(DeliveryFailed, match=r"the name 'receiver.example' has no address"):
            look_up("https://receiver.example/", reach=Reach.PUBLIC, resolve=resolve)


@pytest.mark.parametrize(
    ("url", "fact"),
    [
        ("", "no usable address"),
        ("receiver.example/hook", "no usable address"),
        ("ftp://receiver.example/", "no usable address"),
        ("file:///etc/passwd", "no usable address"),
        ("gopher://127.0.0.1:6379/_x", "no usable address"),
        ("https://", "no usable address"),
        ("https://receiver.example:port/", "no usable address"),
        ("https://[::1/", "no usable address"),
        ("https://user:word@receiver.example/", "name or password"),
        ("https://receiver.example/#part", "behind '#'"),
        ("https://receiver.example/a b", "without spaces"),
        ("https://receiver.example/a\x00", "without spaces"),
        ("https://bücher.example/", "of ASCII"),
        (f"https://receiver.example/{'x' * 500}", "at most 500 characters"),
    ],
)
def test_what_is_no_address_of_a_receiver_is_refused_in_words(url, fact):
    """Before anything is looked up."""
    with pytest.raises(InvalidChannel, match=fact) as refused:
        look_up(url, reach=Reach.PRIVATE, resolve=lambda host, port: pytest.fail("looked up"))
    assert refused.value.field == "url"
