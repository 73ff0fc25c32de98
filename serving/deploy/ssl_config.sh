#!/bin/sh
# Writes the file for --ssl_config_file, which holds the PEM text itself. With a third file, clients
# must show a certificate that this authority signed (mTLS).
#
#   sh ssl_config.sh server.key server.pem [ca.pem] > ssl.config
#
# The result holds the private key: keep it in a Secret, readable by the server alone.
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
