# A formula for Homebrew, to copy into a tap. `OWNER` is a placeholder until the project has a public
# repository: `homepage` and `head` must name the `repository` of Cargo.toml, and `.release/check` compares them.
# In the tap, add `url` and `sha256` of a release's source above `license`.
class Ronproxy < Formula
  desc "Proxy whose connections survive path failures, over a Resilient Overlay Network"
  homepage "https://github.com/OWNER/ronproxy"
  head "https://github.com/OWNER/ronproxy.git", branch: "main"
  license any_of: ["MIT", "Apache-2.0"]

  depends_on "rust" => :build

  def install
    system "cargo", "install", *std_cargo_args
    generate_completions_from_executable(bin/"ronproxy", "completions")
    (man1/"ronproxy.1").write Utils.safe_popen_read(bin/"ronproxy", "man")
  end

  service do
    run [opt_bin/"ronproxy", "run"]
    keep_alive successful_exit: false
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/ronproxy --version")
    system bin/"ronproxy", "--dir", testpath/"node", "init", "--name", "a", "--listen", "127.0.0.1:0"
    assert_path_exists testpath/"node/config.toml"
  end
end
