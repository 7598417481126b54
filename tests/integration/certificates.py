"""Certificates and signed tokens for tests, made with openssl(1)."""

import base64
import hashlib
import hmac
import json
import os
import subprocess
from pathlib import Path


def openssl(*args, **options):
    return subprocess.run(["openssl", *map(str, args)], capture_output=True, check=True, timeout=60, **options).stdout


class Authority:
    """Signs certificates; its own is `chain`."""

    def __init__(self, directory, name="authority", signer=None):
        self.directory = Path(directory)
        self.name = name
        self.signer = signer
        self.serial = 0
        self.chain, self.key = self.issue(name, extensions="basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign,cRLSign")

    def issue(self, name, *sans, days=90, extensions="", subject=None, key="ec"):
        """(chain, key): files of a certificate for these names, like "DNS:a.example", with whoever signed it behind."""
        base = self.directory / f"{self.name}-{name}"
        chain, secret, request, config = (base.with_suffix(s) for s in (".pem", ".key", ".csr", ".ext"))
        kind = {"ec": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"], "rsa": ["-newkey", "rsa:2048"],
                "weak": ["-newkey", "rsa:1024"]}[key]
        openssl("req", *kind, "-nodes", "-keyout", secret, "-out", request, "-subj", subject or f"/CN={name}")
        secret.chmod(0o600)
        config.write_text((f"subjectAltName={','.join(sans)}\n" if sans else "") + extensions + "\n")
        own = getattr(self, "chain", None)
        signer = self if own else self.signer
        if days > 0:
            self.serial += 1
            how = ["-CA", signer.leaf, "-CAkey", signer.key] if signer else ["-signkey", secret]
            openssl("x509", "-req", "-in", request, *how, "-days", days, "-extfile", config, "-set_serial", self.serial, "-out", chain)
        else:
            self.sign_expired(request, config, chain)
        leaf = base.with_suffix(".leaf")
        leaf.write_bytes(chain.read_bytes())
        if own is None:
            self.leaf = leaf
        if signer and (not own or self.signer):
            chain.write_bytes(chain.read_bytes() + signer.leaf.read_bytes())
        return chain, secret

    def sign_expired(self, request, config, out):
        """openssl ca is the only one that signs for a time that is over."""
        self.database()
        openssl("ca", "-batch", "-config", self.directory / "ca.cnf", "-in", request, "-out", out, "-extfile", config, "-notext",
                "-startdate", "20200101000000Z", "-enddate", "20200201000000Z", "-md", "sha256")

    def database(self):
        (self.directory / "index.txt").touch()
        (self.directory / "ca.cnf").write_text(
            f"[ca]\ndefault_ca=one\n[one]\ndatabase={self.directory}/index.txt\nnew_certs_dir={self.directory}\n"
            f"certificate={self.leaf}\nprivate_key={self.key}\nrand_serial=yes\npolicy=any\ndefault_md=sha256\n"
            "default_crl_days=30\nunique_subject=no\n[any]\ncommonName=supplied\n")

    def revocations(self, *chains):
        """A file that says that these are revoked."""
        self.database()
        for chain in chains:
            openssl("ca", "-config", self.directory / "ca.cnf", "-revoke", chain)
        out = self.directory / f"{self.name}.crl"
        openssl("ca", "-config", self.directory / "ca.cnf", "-gencrl", "-out", out)
        return out


def letters(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """Signs tokens with a key, by openssl where it is not a secret."""

    def __init__(self, directory, algorithm, name="main"):
        self.algorithm, self.name = algorithm, name
        self.private = directory / f"{name}.private"
        self.public = directory / f"{name}.pem"
        if algorithm == "HS256":
            self.public.write_bytes(os.urandom(32))
            self.public.chmod(0o600)
            return
        how = {"RS256": ["rsa", "-pkeyopt", "rsa_keygen_bits:2048"], "ES256": ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
               "EdDSA": ["ed25519"]}[algorithm]
        self.openssl("genpkey", "-algorithm", *how, "-out", self.private)
        self.openssl("pkey", "-in", self.private, "-pubout", "-out", self.public)

    @staticmethod
    def openssl(*args, stdin=b""):
        return subprocess.run(["openssl", *map(str, args)], input=stdin, check=True, capture_output=True).stdout

    def signature(self, text):
        if self.algorithm == "HS256":
            return hmac.new(self.public.read_bytes(), text, hashlib.sha256).digest()
        if self.algorithm == "EdDSA":
            path = self.private.with_suffix(".text")
            path.write_bytes(text)
            return self.openssl("pkeyutl", "-sign", "-inkey", self.private, "-rawin", "-in", path)
        der = self.openssl("dgst", "-sha256", "-sign", self.private, stdin=text)
        if self.algorithm == "RS256":
            return der
        r_len = der[3]
        r, s = der[4:4 + r_len], der[6 + r_len:]
        return b"".join(number.lstrip(b"\0").rjust(32, b"\0") for number in (r, s))

    def token(self, head=None, **claims):
        head = {"alg": self.algorithm, "typ": "JWT", **(head or {})}
        text = f"{letters(json.dumps(head).encode())}.{letters(json.dumps(claims).encode())}"
        return f"{text}.{letters(self.signature(text.encode()))}"

    def config(self, **more):
        return {"jwt": {"algorithms": [self.algorithm], "keys": [str(self.public)], **more}}
