"""Builds lines as firewalls log them, from their vendors' lists of fields."""

from __future__ import annotations

import csv
import io

# PAN-OS 11.0 Administrator's Guide, "Traffic Log Fields", in its order.
PAN_FIELDS = [
    "FUTURE_USE",
    "Receive Time",
    "Serial Number",
    "Type",
    "Threat/Content Type",
    "FUTURE_USE",
    "Generated Time",
    "Source Address",
    "Destination Address",
    "NAT Source IP",
    "NAT Destination IP",
    "Rule Name",
    "Source User",
    "Destination User",
    "Application",
    "Virtual System",
    "Source Zone",
    "Destination Zone",
    "Inbound Interface",
    "Outbound Interface",
    "Log Action",
    "FUTURE_USE",
    "Session ID",
    "Repeat Count",
    "Source Port",
    "Destination Port",
    "NAT Source Port",
    "NAT Destination Port",
    "Flags",
    "Protocol",
    "Action",
    "Bytes",
    "Bytes Sent",
    "Bytes Received",
    "Packets",
    "Start Time",
    "Elapsed Time",
    "Category",
    "FUTURE_USE",
    "Sequence Number",
    "Action Flags",
    "Source Country",
    "Destination Country",
    "FUTURE_USE",
    "Packets Sent",
    "Packets Received",
    "Session End Reason",
    "Device Group Hierarchy Level 1",
    "Device Group Hierarchy Level 2",
    "Device Group Hierarchy Level 3",
    "Device Group Hierarchy Level 4",
    "Virtual System Name",
    "Device Name",
    "Action Source",
    "Source VM UUID",
    "Destination VM UUID",
    "Tunnel ID/IMSI",
    "Monitor Tag/IMEI",
    "Parent Session ID",
    "Parent Start Time",
    "Tunnel Type",
    "SCTP Association ID",
    "SCTP Chunks",
    "SCTP Chunks Sent",
    "SCTP Chunks Received",
    "Rule UUID",
    "HTTP/2 Connection",
    "App Flap Count",
    "Policy ID",
    "Link Switches",
    "SD-WAN Cluster",
    "SD-WAN Device Type",
    "SD-WAN Cluster Type",
    "SD-WAN Site",
    "Dynamic User Group Name",
    "XFF Address",
    "Source Device Category",
    "Source Device Profile",
    "Source Device Model",
    "Source Device Vendor",
    "Source Device OS Family",
    "Source Device OS Version",
    "Source Hostname",
    "Source Mac Address",
    "Destination Device Category",
    "Destination Device Profile",
    "Destination Device Model",
    "Destination Device Vendor",
    "Destination Device OS Family",
    "Destination Device OS Version",
    "Destination Hostname",
    "Destination Mac Address",
    "Container ID",
    "POD Namespace",
    "POD Name",
    "Source External Dynamic List",
    "Destination External Dynamic List",
    "Host ID",
    "Serial Number",
    "Source Dynamic Address Group",
    "Destination Dynamic Address Group",
    "Session Owner",
    "High Resolution Timestamp",
    "A Slice Service Type",
    "A Slice Differentiator",
    "Application Subcategory",
    "Application Category",
    "Application Technology",
    "Application Risk",
    "Application Characteristic",
    "Application Container",
    "Tunneled Application",
    "Application SaaS",
    "Application Sanctioned State",
    "Offloaded",
]
# How many of them each version writes.
PAN_WIDTHS = {"9.0": 67, "9.1": 75, "11.0": len(PAN_FIELDS)}
PAN_NAMES = [
    "Domain",
    "Receive Time",
    "Serial #",
    "Type",
    "Threat/Content Type",
    "Config Version",
    "Generate Time",
    "Source address",
    "Destination address",
    "NAT Source IP",
    "NAT Destination IP",
    "Rule",
    "Source User",
    "Destination User",
    "Application",
    "Virtual System",
    "Source Zone",
    "Destination Zone",
    "Inbound Interface",
    "Outbound Interface",
    "Log Action",
    "Time Logged",
    "Session ID",
    "Repeat Count",
    "Source Port",
    "Destination Port",
    "NAT Source Port",
    "NAT Destination Port",
    "Flags",
    "IP Protocol",
    "Action",
    "Bytes",
    "Bytes Sent",
    "Bytes Received",
    "Packets",
    "Start Time",
    "Elapsed Time (sec)",
    "Category",
    "tpadding",
    "seqno",
    "actionflags",
    "Source Country",
    "Destination Country",
    "cpadding",
    "pkts_sent",
    "pkts_received",
    "session_end_reason",
]


def pan(**changed) -> dict[str, object]:
    """One session as PAN-OS tells of its end; bytes are of Ethernet frames."""
    return {
        "prefix": "<14>Mar  1 10:00:20 fw01 1",
        "Receive Time": "2024/03/01 10:00:20",
        "Serial Number": "012345678901",
        "Type": "TRAFFIC",
        "Threat/Content Type": "end",
        "Generated Time": "2024/03/01 10:00:20",
        "Source Address": "10.0.0.5",
        "Destination Address": "203.0.113.7",
        "NAT Source IP": "192.0.2.1",
        "NAT Destination IP": "203.0.113.7",
        "Rule Name": "allow out",
        "Application": "ssl",
        "Virtual System": "vsys1",
        "Session ID": 4711,
        "Repeat Count": 1,
        "Source Port": 40000,
        "Destination Port": 443,
        "Protocol": "tcp",
        "Action": "allow",
        "Bytes": 6934,
        "Bytes Sent": 1440,
        "Bytes Received": 5494,
        "Packets": 17,
        "Start Time": "2024/03/01 10:00:00",
        "Elapsed Time": 5,
        "Category": "any",
        "Packets Sent": 8,
        "Packets Received": 9,
        "Session End Reason": "tcp-fin",
        "Device Name": "fw01",
        "High Resolution Timestamp": "2024-03-01T10:00:20.123+01:00",
    } | {name.replace("_", " "): value for name, value in changed.items()}


def separated(fields) -> str:
    """One line, quoted where it needs to be."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(fields)
    return out.getvalue()


def pan_line(row, version="11.0") -> str:
    fields = [row.get(name, "") for name in PAN_FIELDS[: PAN_WIDTHS[version]]]
    return separated([row["prefix"], *fields[1:]])


def pan_export(rows) -> str:
    """As the web interface exports them."""
    width = len(PAN_NAMES)
    body = [
        separated(["1", *(row.get(name, "") for name in PAN_FIELDS[1:width])])
        for row in rows
    ]
    return separated(PAN_NAMES) + "".join(body)


def forti(**changed) -> dict[str, object]:
    """One session as FortiOS 7 logs its end; bytes are of IP."""
    return {
        "date": "2024-03-01",
        "time": "10:00:20",
        "devname": '"fgt01"',
        "devid": '"FGT60FTK00000000"',
        "eventtime": 1709283620000000000,
        "tz": '"+0100"',
        "logid": '"0000000013"',
        "type": '"traffic"',
        "subtype": '"forward"',
        "level": '"notice"',
        "vd": '"root"',
        "srcip": "10.0.0.5",
        "srcname": '"laptop"',
        "srcport": 40000,
        "dstip": "203.0.113.7",
        "dstport": 443,
        "sessionid": 4711,
        "proto": 6,
        "action": '"close"',
        "service": '"HTTPS"',
        "trandisp": '"snat"',
        "transip": "192.0.2.1",
        "app": '"HTTPS.BROWSER"',
        "appcat": '"Web.Client"',
        "duration": 5,
        "sentbyte": 1328,
        "rcvdbyte": 5368,
        "sentpkt": 8,
        "rcvdpkt": 9,
    } | changed


def forti_line(row, separator=" ", head="<189>Mar  1 10:00:20 fgt01 ") -> str:
    """Fields without a value are left out."""
    fields = [f"{key}={value}" for key, value in row.items() if value is not None]
    return head + separator.join(fields) + "\n"


def tracked(**changed) -> dict[str, object]:
    """One connection as netfilter forgets it; bytes are of IP."""
    return {
        "time": 1709283620.25,
        "event": "DESTROY",
        "protocol": "tcp",
        "number": 6,
        "state": "",
        "src": "10.0.0.5",
        "dst": "203.0.113.7",
        "sport": 40000,
        "dport": 443,
        "packets": 8,
        "bytes": 1328,
        "flag": "",
        "nat": "192.0.2.1",
        "back_packets": 9,
        "back_bytes": 5368,
        "id": 4711,
        "more": "",
    } | changed


def conntrack_line(row, *, extended=False, time=True) -> str:
    """As ``conntrack -E -o timestamp,id`` prints it."""
    layer = "ipv4     2 " if extended else ""
    stamp = f"[{row['time']:.6f}]\t" if time else ""
    counts = (
        "packets={packets} bytes={bytes} ",
        "packets={back_packets} bytes={back_bytes} ",
    )
    there, back = ("", "") if row["event"] == "NEW" else counts
    ports = "sport={sport} dport={dport} " if row["sport"] else "type=8 code=0 id=7 "
    turned = "sport={dport} dport={sport} " if row["sport"] else "type=0 code=0 id=7 "
    text = (
        f"{stamp}{row['event']:>9} ".replace(row["event"], f"[{row['event']}]")
        + layer
        + "{protocol:8} {number} {state}src={src} dst={dst} "
        + ports
        + there
        + "{flag}src={dst} dst={nat} "
        + turned
        + back
        + "id={id} {more}"
    )
    return text.format(**row).rstrip() + "\n"


def printflow_line(row, head="2024-03-01T10:00:20.250000+01:00 fw ulogd[812]: ") -> str:
    """As ulogd's PRINTFLOW says it, through syslog."""
    text = (
        "[{event}] ORIG: SRC={src} DST={dst} PROTO=TCP SPT={sport} DPT={dport} "
        "PKTS={packets} BYTES={bytes} , REPLY: SRC={dst} DST={nat} PROTO=TCP SPT={dport} "
        "DPT={sport} PKTS={back_packets} BYTES={back_bytes}\n"
    )
    return head + text.format(**row)


def ulogd(**changed) -> dict[str, object]:
    return {
        "orig.ip.saddr.str": "10.0.0.5",
        "orig.ip.daddr.str": "203.0.113.7",
        "orig.ip.protocol": 6,
        "orig.l4.sport": 40000,
        "orig.l4.dport": 443,
        "orig.raw.pktlen": 1328,
        "orig.raw.pktcount": 8,
        "reply.ip.saddr.str": "203.0.113.7",
        "reply.ip.daddr.str": "192.0.2.1",
        "reply.raw.pktlen": 5368,
        "reply.raw.pktcount": 9,
        "ct.id": 4711,
        "ct.event": 4,
        "flow.start.sec": 1709283615,
        "flow.start.usec": 250000,
        "flow.end.sec": 1709283620,
        "flow.end.usec": 250000,
    } | {name.replace("_", "."): value for name, value in changed.items()}


def gprint_line(row) -> str:
    """As ulogd's GPRINT writes it."""
    fields = ",".join(f"{key}={value}" for key, value in row.items())
    return f"timestamp=2024/03/01-10:00:20,{fields}\n"


def check_point(**changed) -> dict[str, object]:
    """One connection with Accounting, as the Log Exporter of R81 tells of it."""
    return {
        "head": "2024-03-01T09:00:20Z",
        "action": "Accept",
        "flags": "411908",
        "ifdir": "outbound",
        "logid": "6",
        "loguid": "{0x65e19a14,0x0,0x6401a8c0,0xc0000001}",
        "origin": "192.0.2.1",
        "time": 1709283620,
        "version": "5",
        "__policy_id_tag": "product=VPN-1 & FireWall-1[db_tag={A};mgmt=m;date=1]",
        "appi_name": "MEGA",
        "dst": "203.0.113.7",
        "lastupdatetime": 1709283620,
        "layer_name": "Network",
        "proto": 6,
        "received_bytes": 5368,
        "s_port": 40000,
        "sent_bytes": 1328,
        "service": 443,
        "service_id": "https",
        "src": "10.0.0.5",
        "start_time": 1709283615,
        "xlatesrc": "192.0.2.1",
    } | changed


def check_point_line(row, form="syslog") -> str:
    fields = {key: value for key, value in row.items() if value is not None}
    head = fields.pop("head")

    def escaped(value):
        text = str(value).replace("\\", "\\\\").replace('"', '\\"')
        return text.replace("]", "\\]")

    if form == "splunk":
        return "|".join(f"{key}={value}" for key, value in fields.items()) + "|\n"
    if form == "structured":
        body = " ".join(f'{key}="{escaped(value)}"' for key, value in fields.items())
        body = f"[Fields@1.3.6.1.4.1.2620 {body}]"
        return f"<85>1 {head} 192.0.2.1 CP-GW - Log {body}\n"
    body = "; ".join(f'{key}:"{escaped(value)}"' for key, value in fields.items())
    return f"<134>1 {head} gw01 CheckPoint 1930 - [{body}]\n"


def asa(**changed) -> dict[str, object]:
    """One connection as an ASA tears it down; bytes are data both ways."""
    return {
        "head": "<166>Mar 01 2024 10:00:20 fw01 : ",
        "device": "ASA",
        "what": "Teardown",
        "way": "outbound",
        "protocol": "TCP",
        "id": 4711,
        "first": "outside:203.0.113.7/443",
        "second": "inside:10.0.0.5/40000",
        "user": "",
        "duration": "0:00:05",
        "bytes": 6000,
        "reason": " TCP FINs",
    } | changed


_ASA_NUMBERS = {
    ("Built", "TCP"): 302013,
    ("Teardown", "TCP"): 302014,
    ("Built", "UDP"): 302015,
    ("Teardown", "UDP"): 302016,
    ("Built", "GRE"): 302017,
    ("Teardown", "GRE"): 302018,
    ("Built", "TCP state-bypass"): 302303,
    ("Teardown", "TCP state-bypass"): 302304,
}


def asa_line(row) -> str:
    number = _ASA_NUMBERS[row["what"], row["protocol"]]
    word = "from" if number in (302018, 302304) else "for"
    if row["what"] == "Built":
        text = (
            "{head}%{device}-6-{number}: Built {way} {protocol} connection {id} {word} "
            "{first} (192.0.2.9/443){user} to {second} (192.0.2.1/5){user}\n"
        )
    else:
        text = (
            "{head}%{device}-6-{number}: Teardown {protocol} connection {id} {word} "
            "{first}{user} to {second}{user} duration {duration} bytes {bytes}{reason}\n"
        )
    return text.format(**row, number=number, word=word)


def firepower(**changed) -> dict[str, object]:
    """One connection as an FTD reports its end; bytes are of Ethernet frames."""
    return {
        "EventPriority": "Low",
        "DeviceUUID": "e8566508-eaa9-11e5-860f-de3e305d8269",
        "InstanceID": 3,
        "FirstPacketSecond": "2024-03-01T09:00:15Z",
        "ConnectionID": 4711,
        "AccessControlRuleAction": "Allow",
        "SrcIP": "10.0.0.5",
        "DstIP": "203.0.113.7",
        "SrcPort": 40000,
        "DstPort": 443,
        "Protocol": "tcp",
        "IngressInterface": "inside",
        "Prefilter Policy": "Unknown",
        "Client": "SSL client",
        "ApplicationProtocol": "HTTPS",
        "ConnectionDuration": 5,
        "InitiatorPackets": 8,
        "ResponderPackets": 9,
        "InitiatorBytes": 1440,
        "ResponderBytes": 5494,
        "NAPPolicy": "Balanced Security and Connectivity",
    } | changed


def firepower_line(row, number=430003, head="<113>2024-03-01T09:00:20Z fw01 ") -> str:
    fields = ", ".join(f"{k}: {v}" for k, v in row.items() if v is not None)
    return f"{head}%FTD-1-{number}: {fields}\n"
