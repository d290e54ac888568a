# shellcheck shell=sh
# One node of the lab in compose.yaml: sh lab.sh NAME IP:PORT
# The exit makes the overlay and invites the others, which wait for their invitation.
set -eu
name=$1 address=$2
program=${RONPROXY:-/ronproxy}
node=${NODE:-/node}
invitations=${INVITATIONS:-/invitations}

ron() { "$program" --dir "$node" "$@"; }

if [ ! -e "$node/config.toml" ]; then
    if [ "$name" = exit ]; then
        ron init --name exit --exit --listen "$address"
        ron invite --name relay --relay >"$invitations/relay.new"
        ron invite --name entry >"$invitations/entry.new"
        mv "$invitations/relay.new" "$invitations/relay"
        mv "$invitations/entry.new" "$invitations/entry"
    else
        while [ ! -e "$invitations/$name" ]; do sleep 1; done
        until ron join --listen "$address" - <"$invitations/$name"; do sleep 1; done
        rm "$invitations/$name"
    fi
fi
if [ "$name" = entry ] && ! grep -q lab "$node/config.toml"; then
    # The host reaches the proxy from outside the container, so it asks for a password.
    sed -i 's/^listen = "127.0.0.1:1080"/listen = "0.0.0.0:1080"/' "$node/config.toml"
    printf '\n[[entry.users]]\nname = "lab"\npassword = "lab"\n' >>"$node/config.toml"
fi
exec "$program" --dir "$node" run
