#!/bin/sh
# Writes the file for --ssl_config_file, which contains the PEM texts themselves. With a third file,
# clients must present a certificate that this authority signed (mTLS).
#
#   sh ssl_config.sh server.key server.pem [ca.pem] > ssl.config
#
# The result contains the private key: store it in a Secret that only the server can read.
set -eu
umask 077

# field NAME FILE: a text proto field with a file's lines.
field() {
  grep -q -e '-----BEGIN ' "$2" || {
    echo "ssl_config.sh: $2 is not in PEM form" >&2
    exit 1
  }
  printf '%s:\n' "$1"
  sed 's/.*/  "&\\n"/' "$2"
}

[ $# -ge 2 ] || {
  echo "usage: ssl_config.sh server.key server.pem [ca.pem] > ssl.config" >&2
  exit 2
}
field server_key "$1"
field server_cert "$2"
if [ $# -gt 2 ]; then
  field custom_ca "$3"
  echo "client_verify: true"
fi
