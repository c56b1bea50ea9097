"""Scripts that read and write the security descriptor of one file or device, exactly as it is.

PowerShell's own ``Get-Acl`` and ``Set-Acl`` merge and reorder entries, and ``SetSecurityInfo`` goes through
every file below a directory. These calls of the kernel do neither.
"""

from __future__ import annotations

from mxc_ops.prep.windows.script import quote

__all__ = ["DACL_ONLY", "NULL_DEVICE", "WITH_LABEL", "read", "write"]

NULL_DEVICE = r"\\.\NUL"
# SECURITY_INFORMATION: owner 1, group 2, list 4, mandatory label 0x10. With the label's own bit, no privilege
# is needed for it; entries for auditing are neither read nor written.
DACL_ONLY = 0x4
WITH_LABEL = 0x17

_SOURCE = r"""using System;
using System.ComponentModel;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;
namespace MxcOps {
public static class Descriptor {
const uint ReadControl = 0x20000, WriteDac = 0x40000, WriteOwner = 0x80000;
[DllImport("kernel32.dll", CharSet = CharSet.Unicode, SetLastError = true)]
static extern SafeFileHandle CreateFileW(
string name, uint access, uint share, IntPtr security, uint disposition, uint flags, IntPtr template);
[DllImport("advapi32.dll", SetLastError = true)]
static extern bool GetKernelObjectSecurity(
SafeFileHandle handle, uint what, byte[] descriptor, uint length, out uint needed);
[DllImport("advapi32.dll", SetLastError = true)]
static extern bool SetKernelObjectSecurity(SafeFileHandle handle, uint what, IntPtr descriptor);
[DllImport("advapi32.dll", CharSet = CharSet.Unicode, SetLastError = true)]
static extern bool ConvertSecurityDescriptorToStringSecurityDescriptorW(
byte[] descriptor, uint revision, uint what, out IntPtr text, out uint length);
[DllImport("advapi32.dll", CharSet = CharSet.Unicode, SetLastError = true)]
static extern bool ConvertStringSecurityDescriptorToSecurityDescriptorW(
string text, uint revision, out IntPtr descriptor, out uint length);
[DllImport("kernel32.dll")]
static extern IntPtr LocalFree(IntPtr memory);
static void Must(bool worked) { if (!worked) throw new Win32Exception(Marshal.GetLastWin32Error()); }
static SafeFileHandle Open(string path, uint access) {
var handle = CreateFileW(path, access, 7, IntPtr.Zero, 3, 0x02000000, IntPtr.Zero);
Must(!handle.IsInvalid);
return handle;
}
static string Text(SafeFileHandle handle, uint what) {
uint length;
GetKernelObjectSecurity(handle, what, null, 0, out length);
var descriptor = new byte[length];
Must(GetKernelObjectSecurity(handle, what, descriptor, length, out length));
IntPtr text;
Must(ConvertSecurityDescriptorToStringSecurityDescriptorW(descriptor, 1, what, out text, out length));
try { return Marshal.PtrToStringUni(text); } finally { LocalFree(text); }
}
public static string Read(string path, uint what) {
using (var handle = Open(path, ReadControl)) return Text(handle, what);
}
public static void Write(string path, uint what, string expected, string wanted) {
var access = ReadControl | WriteDac | ((what & ~4u) != 0 ? WriteOwner : 0);
using (var handle = Open(path, access)) {
var found = Text(handle, what);
if (!String.IsNullOrEmpty(expected) && found != expected)
throw new InvalidOperationException(path + " was changed meanwhile, it is now " + found);
IntPtr descriptor;
uint length;
Must(ConvertStringSecurityDescriptorToSecurityDescriptorW(wanted, 1, out descriptor, out length));
try { Must(SetKernelObjectSecurity(handle, what, descriptor)); } finally { LocalFree(descriptor); }
}
}
}
}"""
_DEFINED = f"if(-not ('MxcOps.Descriptor' -as [type])){{Add-Type -TypeDefinition {quote(_SOURCE)}}}"


def read(path: str, what: int) -> str:
    """An expression, after its definitions in lines of their own: the descriptor as text.

    Parameters
    ----------
    path: an expression.
    what: the parts, `DACL_ONLY` or `WITH_LABEL`.
    """
    return f"{_DEFINED}\n$sddl=[MxcOps.Descriptor]::Read({path},{what})"


def write(path: str, what: int, wanted: str, *, expected: str = "") -> str:
    """A script that replaces the parts of a descriptor, in one call.

    Parameters
    ----------
    path: an expression.
    expected: fail, and change nothing, when it is not this text by now; "" for whatever it is.
    """
    return f"{_DEFINED}\n[MxcOps.Descriptor]::Write({path},{what},{quote(expected)},{quote(wanted)})"
