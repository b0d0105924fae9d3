"""No password is shown, whatever it is made of."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdl.core.addresses import is_plain, masked

# Any text that is not part of what may be shown of the addresses below.
SECRETS = st.text(min_size=1, max_size=20).map(lambda text: f"s3cr{text}et")
SCHEMES = st.sampled_from(["http", "https", "postgresql", "mysql+pymysql", "databricks", "sqlite+pysqlcipher", "s3"])
HOSTS = st.sampled_from(["lab.example", "lab.example:5000", "[::1]:80", "10.0.0.1", "lab.example:bad", "", "lab:99999"])
PATHS = st.sampled_from(["", "/", "/mlflow", "/fdl/neu.zip"])


@settings(max_examples=2000, deadline=None)
@given(SCHEMES, SECRETS, SECRETS, HOSTS, PATHS)
def test_a_password_before_the_host(scheme: str, user: str, password: str, host: str, path: str) -> None:
    for login in (f"{user}:{password}", f":{password}", password, f"x:1/{password}"):
        shown = masked(f"{scheme}://{login}@{host}{path}")
        assert "s3cr" not in shown
        assert "et" not in shown.removeprefix(scheme)
        assert shown.isprintable()


@settings(max_examples=1000, deadline=None)
@given(SCHEMES, SECRETS, HOSTS, PATHS, st.sampled_from(["?password=", "?a=b&token=", "#", "?"]))
def test_a_password_in_the_query(scheme: str, password: str, host: str, path: str, query: str) -> None:
    for login in ("", "ann:s3cret@"):
        shown = masked(f"{scheme}://{login}{host}{path}{query}{password}")
        assert "s3cr" not in shown
        assert "et" not in shown.removeprefix(scheme)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://ann:s3cret@lab.example:5000/mlflow", "http://***@lab.example:5000/mlflow"),
        ("http://ann:s3@cret@lab.example", "http://***@lab.example"),
        ("http://ann:s3?cret@lab.example", "http://***"),
        ("http://lab.example/mlflow?token=s3cret", "http://lab.example/mlflow?***"),
        ("http://lab.example:s3cret/mlflow", "http://lab.example"),
        ("postgresql://ann:s3cret@lab.example/db?sslpassword=s3cret", "postgresql://***@lab.example/db?***"),
        ("databricks://profile:s3cret", "databricks://profile"),
        ("sqlite:///mlflow.db?password=s3cret", "sqlite:///mlflow.db?***"),
        ("ann:s3cret@lab.example", "***"),
        ("uc:s3cret", "***"),
    ],
)
def test_what_is_left(address: str, shown: str) -> None:
    assert masked(address) == shown
    assert not is_plain(address)


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:5000",
        "https://lab.example/fdl/neu.zip",
        "sqlite:///mlflow.db",
        "sqlite:////home/ann@lab/mlflow.db",
        "file:///srv/ann@lab",
        "databricks",
        "127.0.0.1:5000",
        "mlruns",
        "/home/ann@lab/mlruns",
        "not an address",
    ],
)
def test_what_has_no_password_is_shown_as_it_is(address: str) -> None:
    assert masked(address) == address
