"""Fixture trees: what the files of boards say, cut down to what the agent reads."""

from __future__ import annotations

import os

PI_4 = {
    "proc/cpuinfo": "".join(
        f"processor\t: {core}\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\n"
        "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n"
        for core in range(4)
    )
    + "Revision\t: c03115\nSerial\t\t: 0\nModel\t\t: Raspberry Pi 4 Model B Rev 1.5\n",
    "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.5\0",
    "proc/meminfo": "MemTotal:        3884376 kB\nMemFree:         3000000 kB\n",
    "proc/loadavg": "0.10 0.20 0.30 1/150 999\n",
    "proc/sys/kernel/osrelease": "6.1.0-rpi7-rpi-v8\n",
    "etc/os-release": 'NAME="Debian GNU/Linux"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n',
    "sys/devices/system/cpu/online": "0-3\n",
    "sys/devices/system/cpu/cpu0/cache/index2/size": "1024K\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48199\n",
    "sys/class/hwmon/hwmon1/name": "rpi_volt\n",
    "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "1\n",
    **{f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor": "ondemand\n" for core in range(4)},
    **{f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq": "600000\n" for core in range(4)},
    **{f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_max_freq": "1800000\n" for core in range(4)},
}

PI_5 = {
    "proc/cpuinfo": "".join(
        f"processor\t: {core}\nBogoMIPS\t: 108.00\n"
        "Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc asimddp\n"
        "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 1\n\n"
        for core in range(4)
    )
    + "Revision\t: d04170\nSerial\t\t: 0\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n",
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/meminfo": "MemTotal:        8257376 kB\n",
    "proc/sys/kernel/osrelease": "6.12.34+rpt-rpi-2712\n",
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nNAME="Debian GNU/Linux"\n',
    "sys/devices/system/cpu/online": "0-3\n",
    "sys/devices/system/cpu/cpu0/cache/index2/size": "512K\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "57850\n",
    "sys/class/hwmon/hwmon3/name": "rpi_volt\n",
    "sys/class/hwmon/hwmon3/in0_lcrit_alarm": "0\n",
    **{f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor": "ondemand\n" for core in range(4)},
    **{f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq": "1500000\n" for core in range(4)},
    **{f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_max_freq": "2400000\n" for core in range(4)},
}

XAVIER = {
    "proc/cpuinfo": "".join(
        f"processor\t: {core}\nmodel name\t: ARMv8 Processor rev 0 (v8l)\nBogoMIPS\t: 62.50\n"
        "Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp\n"
        "CPU implementer\t: 0x4e\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0x004\nCPU revision\t: 0\n\n"
        for core in range(8)
    ),
    "proc/device-tree/model": "Jetson-AGX\0",
    "proc/meminfo": "MemTotal:       31904216 kB\n",
    "proc/sys/kernel/osrelease": "5.10.120-tegra\n",
    "etc/nv_tegra_release": "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64\n",
    "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 20.04.6 LTS"\n',
    "sys/devices/system/cpu/online": "0-7\n",
    "sys/devices/system/cpu/cpu0/cache/index2/size": "2048K\n",
    "sys/class/thermal/thermal_zone0/type": "CPU-therm\n",
    "sys/class/thermal/thermal_zone0/temp": "37000\n",
    "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon2/in1_label": "GPU\n",
    "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon2/in1_input": "19064\n",
    "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon2/curr1_input": "24\n",
    "var/lib/nvpmodel/status": "pmode:0002",
    "sys/class/devfreq/17000000.gv11b/cur_freq": "114750000\n",
    **{f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor": "schedutil\n" for core in range(8)},
}

ORIN = {
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: ARMv8 Processor rev 1 (v8l)\n"
    "Features\t: fp asimd asimdhp cpuid asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n",
    "proc/device-tree/model": "NVIDIA Orin Nano Developer Kit\0",
    "etc/nv_tegra_release": "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64\nmore\n",
    "sys/devices/system/cpu/online": "0-1,4\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpu4/cpufreq/scaling_governor": "performance\n",
    "sys/class/thermal/thermal_zone0/type": "CPU-therm\n",
    "sys/class/thermal/thermal_zone0/temp": "50500\n",
    "sys/class/thermal/thermal_zone1/type": "CV0-therm\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
    "sys/class/hwmon/hwmon1/oc1_event_cnt": "2\n",
    "sys/class/hwmon/hwmon1/oc2_event_cnt": "1\n",
    **{
        f"sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/{name}": text
        for number, rail, volts, amperes in (
            (1, "VDD_IN", 5000, 1200), (2, "VDD_CPU_GPU_CV", 5000, 400), (3, "VDD_SOC", 5000, 300)
        )
        for name, text in (
            (f"in{number}_label", f"{rail}\n"), (f"in{number}_input", f"{volts}\n"),
            (f"curr{number}_input", f"{amperes}\n"),
        )
    },
    "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/in7_label": "sum of shunt voltages\n",
}  # fmt: skip

AGX_ORIN = {
    f"sys/bus/i2c/drivers/ina3221/{chip}/{name}": text
    for chip, number, rail, volts, amperes in (
        ("1-0040/hwmon/hwmon3", 1, "VDD_GPU_SOC", 20000, 160), ("1-0040/hwmon/hwmon3", 2, "VDD_CPU_CV", 20000, 40),
        ("1-0040/hwmon/hwmon3", 3, "VIN_SYS_5V0", 5000, 500), ("1-0041/hwmon/hwmon4", 1, "NC", 0, 0),
        ("1-0041/hwmon/hwmon4", 2, "VDDQ_VDD2_1V8AO", 5000, 100), ("1-0041/hwmon/hwmon4", 3, "NC", 0, 0),
    )
    for name, text in (
        (f"in{number}_label", f"{rail}\n"), (f"in{number}_input", f"{volts}\n"),
        (f"curr{number}_input", f"{amperes}\n"),
    )
}  # fmt: skip

NANO = {
    f"sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/{name}": text
    for number, rail, milliwatts in ((0, "POM_5V_IN", 2317), (1, "POM_5V_GPU", 80), (2, "POM_5V_CPU", 478))
    for name, text in ((f"rail_name_{number}", f"{rail}\n"), (f"in_power{number}_input", f"{milliwatts}\n"))
}

RAPL = {
    f"sys/class/powercap/{zone}/{name}": text
    for zone, kind, energy in (
        ("intel-rapl:0", "package-0", 262143328850 - 2_000_000), ("intel-rapl:0:0", "core", 5_000_000),
        ("intel-rapl:0:1", "dram", 1_000_000), ("intel-rapl:1", "package-1", 7_000_000),
        ("intel-rapl:2", "psys", 8_000_000), ("intel-rapl-mmio:0", "package-0", 3_000_000),
    )
    for name, text in (
        ("name", f"{kind}\n"), ("energy_uj", f"{energy}\n"), ("max_energy_range_uj", "262143328850\n"),
    )
}  # fmt: skip

SERVER = {
    "sys/class/hwmon/hwmon0/name": "amdgpu\n",
    "sys/class/hwmon/hwmon0/power1_average": "12000000\n",
    "sys/class/hwmon/hwmon1/name": "power_meter\n",
    "sys/class/hwmon/hwmon1/power1_average": "98500000\n",
}

EMPTY: dict = {}

X86 = {
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: Some CPU @ 2.60GHz\ncpu MHz\t\t: 2599.998\n"
    "flags\t\t: fpu avx2 avx512f avx512_vnni amx_int8 avx512_bf16\n\n"
    "processor\t: 1\nmodel name\t: Some CPU @ 2.60GHz\ncpu MHz\t\t: 1200.5\nflags\t\t: fpu avx2\n",
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3\n",
    "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "4\n",
    "sys/bus/i2c/drivers/ina3221/bind": "",
}


def plant(root: str, files: dict[str, str]) -> str:
    """Write ``files`` below ``root``, and return it."""
    for name, content in files.items():
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(content)
    return root
