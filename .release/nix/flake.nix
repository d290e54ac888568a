# nix run 'git+file:.?dir=.release/nix' -- demo
{
  description = "A proxy whose connections survive path failures, over a Resilient Overlay Network";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs = { self, nixpkgs }:
    let
      systems = [ "x86_64-linux" "aarch64-linux" "x86_64-darwin" "aarch64-darwin" ];
      for = f: nixpkgs.lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
      source = ../..;
      manifest = (builtins.fromTOML (builtins.readFile (source + "/Cargo.toml"))).package;
    in
    {
      packages = for (pkgs: {
        default = pkgs.rustPlatform.buildRustPackage {
          pname = manifest.name;
          inherit (manifest) version;
          src = source;
          cargoLock.lockFile = source + "/Cargo.lock";
          env.RONPROXY_COMMIT = self.shortRev or "dirty";
          # They open sockets and measure time, which the sandbox does not allow.
          doCheck = false;
          nativeBuildInputs = [ pkgs.installShellFiles ];
          postInstall = ''
            installShellCompletion --cmd ronproxy \
              --bash <($out/bin/ronproxy completions bash) \
              --zsh <($out/bin/ronproxy completions zsh) \
              --fish <($out/bin/ronproxy completions fish)
            $out/bin/ronproxy man > ronproxy.1
            installManPage ronproxy.1
          '';
          meta = {
            inherit (manifest) description;
            license = with pkgs.lib.licenses; [ mit asl20 ];
            mainProgram = "ronproxy";
          };
        };
      });
    };
}
